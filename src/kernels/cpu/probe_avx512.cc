// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/probe_impl.h"
#include "kernels/cpu/vec_avx512.h"

namespace halfmoon::kernels::avx512 {

int64_t ProbeInt8(int64_t iterations, int32_t* result) {
  constexpr int kChains = 16;
  __m512i sums[kChains];
  Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = _mm512_set1_epi32(i); });
  const __m512i weights = _mm512_set1_epi8(static_cast<char>(iterations & 3));
  const __m512i activations = _mm512_set1_epi8(static_cast<char>(iterations & 1));
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i) HALFMOON_INLINE {
      sums[i] = _mm512_dpbusd_epi32(sums[i], weights, activations);
    });
  }
  __m512i total = _mm512_setzero_si512();
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = _mm512_add_epi32(total, sums[i]); });
  *result = _mm512_reduce_add_epi32(total);
  return iterations * kChains * 128;
}

int64_t ProbeF32(int64_t iterations, int32_t* result) {
  return impl::ProbeF32<Vec, 16>(iterations, result);
}

int32_t ProbeRead(const std::byte* memory, size_t size_bytes) {
  return impl::ProbeRead<Vec>(memory, size_bytes);
}

}  // namespace halfmoon::kernels::avx512
