// SPDX-License-Identifier: Apache-2.0
// Byte products for matmul_int8_impl.h with FEAT_DotProd: sdot multiplies 4 output rows x 4 signed
// weights by 4 activations, one lane of a register for all rows, and adds them to 32-bit sums.
#pragma once

#include <cstdint>

#include "kernels/cpu/dot_neon.h"

namespace halfmoon::kernels::dotprod {

struct Dot : neon::DotBase<Dot> {
  using Narrow = int32x4_t;

  static constexpr bool kSumsWide = true;
  template <WeightFormat F>
  static constexpr int kWordsPerSum = 8;
  // Of 32 registers, the four vectors of a tile take 16 for the sums of 4 rows, and less for what
  // is multiplied.
  static constexpr int kMaxRows = 4;
  template <int R>
  static constexpr int kTiles = R == 1 ? 2 : 1;

  template <WeightFormat F>
  static Int Dot4(Int sums, Weights weights, int8x8_t activations) {
    return vdotq_lane_s32(sums, weights, activations, 0);
  }
  /// In lane 0 only, which takes no more than the load.
  static int8x8_t Words(const int8_t* p) { return vreinterpret_s8_u8(LoadFour(p)); }
};

}  // namespace halfmoon::kernels::dotprod
