// SPDX-License-Identifier: Apache-2.0
// Latent rows as keys and values in pairs of bfloat16, which is what attend reads.
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/latent_impl.h"
#include "kernels/cpu/vec_avx512.h"

namespace halfmoon::kernels::avx512bf16 {
namespace {

// Columns [d, d + 32) of a row; zeros from column `end` on, which is 16 or 32 further.
HALFMOON_INLINE inline __m512i LoadColumns(const std::byte* row, int32_t d, int32_t end) {
  return _mm512_maskz_loadu_epi16(d + 32 <= end ? 0xFFFFFFFFu : 0xFFFFu, row + int64_t{d} * 2);
}

// Where columns of two rows meet as pairs: the words 0 to 15, and 16 to 31, of both in turns.
struct PairIndex {
  __m512i low, high;
};

HALFMOON_INLINE inline PairIndex IndexOfPairs() {
  // A lane is word i of the first row under word i of the second, which counts from 32.
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i low =
      _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
  return {low, _mm512_add_epi16(low, _mm512_set1_epi16(16))};
}

// Up to 16 positions from `begin` on, an even number.
void StageRun(const StageLatentArgs& args, int32_t begin, int32_t count) {
  const std::byte* row[kKvLane];
  impl::FindRows(args, begin, count, row);
  const PairIndex index = IndexOfPairs();
  for (int32_t i = 0; i < count; i += 2) {
    float* values = args.values + static_cast<int64_t>(begin + i) / 2 * args.value_stride;
    for (int32_t d = 0; d < args.value_dim; d += 32) {
      const __m512i first = LoadColumns(row[i], d, args.value_dim);
      const __m512i second = LoadColumns(row[i + 1], d, args.value_dim);
      _mm512_storeu_si512(values + d, _mm512_permutex2var_epi16(first, index.low, second));
      if (d + 16 == args.value_dim) break;
      _mm512_storeu_si512(values + d + 16, _mm512_permutex2var_epi16(first, index.high, second));
    }
  }
  float* keys = args.keys + static_cast<int64_t>(begin) * args.key_stride / 2;
  for (int32_t d = args.key_begin; d < args.head_dim; d += 32) {
    __m512 pairs[kKvLane];
    Unroll<kKvLane>([&](int i) HALFMOON_INLINE {
      pairs[i] = _mm512_castsi512_ps(LoadColumns(row[i], d, args.head_dim));
    });
    avx512::Vec::Transpose(pairs);
    float* out = keys + static_cast<int64_t>(d - args.key_begin) / 2 * kKvLane;
    Unroll<8>([&](int i) HALFMOON_INLINE { _mm512_storeu_ps(out + i * kKvLane, pairs[i]); });
    if (d + 16 == args.head_dim) break;
    Unroll<8>([&](int i)
                  HALFMOON_INLINE { _mm512_storeu_ps(out + (8 + i) * kKvLane, pairs[8 + i]); });
  }
}

}  // namespace

void StageLatent(const StageLatentArgs& args) {
  if (args.to != KvType::kBF16) return avx512::StageLatent(args);
  for (int32_t begin = 0; begin < args.count; begin += kKvLane) {
    const int32_t left = args.count - begin;
    StageRun(args, begin, left < kKvLane ? left : kKvLane);
  }
}

}  // namespace halfmoon::kernels::avx512bf16
