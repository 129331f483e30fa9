// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/probe_impl.h"
#include "kernels/cpu/vec_avx2.h"

namespace halfmoon::kernels::avx2 {

int64_t ProbeInt8(int64_t iterations, int32_t* result) {
  // What a 4-bit kernel needs at least: a multiply and an add in 16 bits for 32 products.
  constexpr int kChains = 12;
  __m256i sums[kChains];
  Unroll<kChains>([&](int i)
                      HALFMOON_INLINE { sums[i] = _mm256_set1_epi16(static_cast<int16_t>(i)); });
  __m256i weights = _mm256_set1_epi8(static_cast<char>(iterations & 3));
  const __m256i activations = _mm256_set1_epi8(static_cast<char>(iterations & 1));
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i) HALFMOON_INLINE {
      sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(weights, activations));
    });
    // Hides from the compiler that the product is the same each time.
    asm volatile("" : "+x"(weights));
  }
  __m256i total = _mm256_setzero_si256();
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = _mm256_add_epi16(total, sums[i]); });
  *result = _mm256_extract_epi16(total, 0);
  return iterations * kChains * 64;
}

int64_t ProbeF32(int64_t iterations, int32_t* result) {
  return impl::ProbeF32<Vec, 6>(iterations, result);
}

int32_t ProbeRead(const std::byte* memory, size_t size_bytes) {
  return impl::ProbeRead<Vec>(memory, size_bytes);
}

}  // namespace halfmoon::kernels::avx2
