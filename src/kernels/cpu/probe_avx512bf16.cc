// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::avx512bf16 {

int64_t ProbeBf16(int64_t iterations, int32_t* result) {
  constexpr int kChains = 16;
  __m512 sums[kChains];
  Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = _mm512_set1_ps(static_cast<float>(i)); });
  const auto ones = __builtin_bit_cast(__m512bh, _mm512_set1_epi16(0x3f80));
  const auto small = __builtin_bit_cast(
      __m512bh, _mm512_set1_epi16(static_cast<int16_t>(0x3c00 + (iterations & 3))));
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i)
                        HALFMOON_INLINE { sums[i] = _mm512_dpbf16_ps(sums[i], ones, small); });
  }
  __m512 total = _mm512_setzero_ps();
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = _mm512_add_ps(total, sums[i]); });
  *result = static_cast<int32_t>(_mm512_reduce_add_ps(total));
  return iterations * kChains * 64;
}

}  // namespace halfmoon::kernels::avx512bf16
