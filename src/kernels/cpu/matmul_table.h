// SPDX-License-Identifier: Apache-2.0
// The kernels of one ISA for all weight formats, made where they are compiled.
#pragma once

#include <cstddef>
#include <utility>

#include "kernels/registry.h"

namespace halfmoon::kernels {

/// kernel_of.operator()<F>() for each format F; null where a format has none.
template <typename KernelOf>
constexpr MatMulTable MakeMatMulTable(const KernelOf& kernel_of) {
  return [&]<size_t... F>(std::index_sequence<F...>) {
    return MatMulTable { {kernel_of.template operator()<static_cast<WeightFormat>(F)>()...} };
  }(std::make_index_sequence<kNumWeightFormats>{});
}

/// The same for int8 activations, which the plain formats do not take.
template <typename KernelOf>
constexpr MatMulTable MakeInt8Table(const KernelOf& kernel_of) {
  return MakeMatMulTable([&]<WeightFormat F>() -> MatMulTilesFn {
    if constexpr (F >= kFirstIntegerFormat) {
      return kernel_of.template operator()<F>();
    } else {
      return nullptr;
    }
  });
}

}  // namespace halfmoon::kernels
