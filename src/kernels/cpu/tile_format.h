// SPDX-License-Identifier: Apache-2.0
// Constants of the quantised tile formats (packed_matrix.h) for packers and kernels. Only
// constants: this header is compiled for every ISA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_matrix.h"

namespace halfmoon::kernels {

/// Where the scales of a quantised tile lie. A scale block covers `kScaleGroups` groups of 32.
template <WeightFormat F>
struct TileFormat {
  static constexpr bool kIs4Bit = F == WeightFormat::kU4D || F == WeightFormat::kU4DM ||
                                  F == WeightFormat::kU4K || F == WeightFormat::kU4B;
  static constexpr bool kHasBf16Scale = F == WeightFormat::kU4B;  ///< d is bf16 instead of f16
  static constexpr bool kIsSuper =
      F == WeightFormat::kU4K || F == WeightFormat::kU8K || F == WeightFormat::kU8S;
  static constexpr bool kHasMin = F == WeightFormat::kU4DM || F == WeightFormat::kU8DM ||
                                  F == WeightFormat::kU4K || F == WeightFormat::kU8K;
  static constexpr bool kHalves = F == WeightFormat::kU8S;  ///< a scale per 16 inputs
  static constexpr int kGroupBytes = kIs4Bit ? 256 : 512;
  static constexpr int kScaleGroups = kIsSuper ? 8 : 1;
  static constexpr int kMinOffset = 32;                ///< f16 m[16] or dmin[16]
  static constexpr int kScOffset = kHalves ? 32 : 64;  ///< sc[8][16], or i8 sc[16][16] for halves
  static constexpr int kMnOffset = 64 + 128;
  static constexpr int kScaleBytes = kHalves ? 32 + 256 : kIsSuper ? 320 : kHasMin ? 64 : 32;
};

}  // namespace halfmoon::kernels
