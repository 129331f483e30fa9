// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dotprod.h"
#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::dotprod {

int64_t ProbeInt8(int64_t iterations, int32_t* result) {
  constexpr int kChains = 16;
  int32x4_t sums[kChains];
  Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = vdupq_n_s32(i); });
  int8x16_t weights = vdupq_n_s8(static_cast<int8_t>(iterations & 3));
  const int8x16_t activations = vdupq_n_s8(static_cast<int8_t>(iterations & 1));
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i) HALFMOON_INLINE {
      sums[i] = vdotq_laneq_s32(sums[i], weights, activations, 0);
    });
    // Hides from the compiler that the product is the same each time.
    asm volatile("" : "+w"(weights));
  }
  int32x4_t total = vdupq_n_s32(0);
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = vaddq_s32(total, sums[i]); });
  *result = vaddvq_s32(total);
  return iterations * kChains * 32;
}

}  // namespace halfmoon::kernels::dotprod
