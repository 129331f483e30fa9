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
                                  F == WeightFormat::kU4K || F == WeightFormat::kU4B ||
                                  F == WeightFormat::kU4H;
  /// d is bf16 instead of f16
  static constexpr bool kHasBf16Scale = F == WeightFormat::kU4B || F == WeightFormat::kU8B;
  /// a scale per 16 inputs, and a minimum where there is one
  static constexpr bool kHalves =
      F == WeightFormat::kU8S || F == WeightFormat::kU8T || F == WeightFormat::kU4H;
  static constexpr bool kIsSuper = F == WeightFormat::kU4K || F == WeightFormat::kU8K || kHalves;
  static constexpr bool kHasMin = F == WeightFormat::kU4DM || F == WeightFormat::kU8DM ||
                                  F == WeightFormat::kU4K || F == WeightFormat::kU8K ||
                                  F == WeightFormat::kU4H;
  static constexpr int kNumScales = kHalves ? 16 : 8;  ///< sc and mn of a superblock
  static constexpr int kGroupBytes = kIs4Bit ? 256 : 512;
  static constexpr int kScaleGroups = kIsSuper ? 8 : 1;
  static constexpr int kMinOffset = 32;  ///< f16 m[16] or dmin[16]
  static constexpr int kScOffset =
      kHasMin ? 64 : 32;  ///< u8 sc[kNumScales][16]; i8 without minimum
  static constexpr int kMnOffset = kScOffset + kNumScales * 16;  ///< u8 mn[kNumScales][16]
  static constexpr int kScaleBytes =
      (kHasMin ? 64 : 32) + (kIsSuper ? (kHasMin ? 2 : 1) * kNumScales * 16 : 0);
};

}  // namespace halfmoon::kernels
