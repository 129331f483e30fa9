// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/neon.h"
#include "kernels/cpu/probe_impl.h"
#include "kernels/cpu/vec_neon.h"

namespace halfmoon::kernels::neon {

int64_t ProbeInt8(int64_t iterations, int32_t* result) {
  // What a 4-bit kernel needs at least: a multiply and add in 16 bits for 8 products.
  constexpr int kChains = 12;
  int16x8_t sums[kChains];
  Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = vdupq_n_s16(static_cast<int16_t>(i)); });
  int8x8_t weights = vdup_n_s8(static_cast<int8_t>(iterations & 3));
  const int8x8_t activations = vdup_n_s8(static_cast<int8_t>(iterations & 1));
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i)
                        HALFMOON_INLINE { sums[i] = vmlal_s8(sums[i], weights, activations); });
    // Hides from the compiler that the product is the same each time.
    asm volatile("" : "+w"(weights));
  }
  int16x8_t total = vdupq_n_s16(0);
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = vaddq_s16(total, sums[i]); });
  *result = vgetq_lane_s16(total, 0);
  return iterations * kChains * 16;
}

int64_t ProbeF32(int64_t iterations, int32_t* result) {
  return impl::ProbeF32<Vec, 6>(iterations, result);
}

int32_t ProbeRead(const std::byte* memory, size_t size_bytes) {
  return impl::ProbeRead<Vec>(memory, size_bytes);
}

}  // namespace halfmoon::kernels::neon
