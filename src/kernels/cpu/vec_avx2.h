// SPDX-License-Identifier: Apache-2.0
// Sixteen float32 lanes as two AVX2 registers; the interface of vec_avx512.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::avx2 {

struct Vec {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };

  // 16 registers: two for each accumulator, and room for what is multiplied.
  static constexpr int kMatMulRows = 3;
  static constexpr int kAttendRows = 4;
  static constexpr int kAttendChunks = 1;
  static constexpr int kRowPositions = 1;  ///< positions of a row of V that a lane holds

  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set(float value) {
    const __m256 v = _mm256_set1_ps(value);
    return {v, v};
  }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F LoadPart(const float* p, int64_t count) {
    const I mask = LessThan(count);
    return {_mm256_maskload_ps(p, mask.a), _mm256_maskload_ps(p + 8, mask.b)};
  }
  static void Store(float* p, F v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  static void StorePart(float* p, F v, int64_t count) {
    const I mask = LessThan(count);
    _mm256_maskstore_ps(p, mask.a, v.a);
    _mm256_maskstore_ps(p + 8, mask.b, v.b);
  }

  static void Transpose(F x[16]) {
    __m256 quarters[4][8];  // Rows 0 .. 7 left and right, rows 8 .. 15 left and right.
    Unroll<8>([&](int i) HALFMOON_INLINE {
      quarters[0][i] = x[i].a;
      quarters[1][i] = x[i].b;
      quarters[2][i] = x[8 + i].a;
      quarters[3][i] = x[8 + i].b;
    });
    Unroll<4>([&](int i) HALFMOON_INLINE { Transpose8(quarters[i]); });
    Unroll<8>([&](int i) HALFMOON_INLINE {
      x[i] = {quarters[0][i], quarters[2][i]};
      x[8 + i] = {quarters[1][i], quarters[3][i]};
    });
  }

  static F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F Fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static F Negate(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
  }
  static F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F ZeroBelow(F x, float limit, F value) {
    const __m256 l = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, l, _CMP_NLT_UQ), value.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, l, _CMP_NLT_UQ), value.b)};
  }
  static F SelectLanes(F value, float other, int begin, int end) {
    const I from = LessThan(begin);
    const I to = LessThan(end);
    const __m256 o = _mm256_set1_ps(other);
    return {_mm256_blendv_ps(o, value.a, _mm256_castsi256_ps(_mm256_andnot_si256(from.a, to.a))),
            _mm256_blendv_ps(o, value.b, _mm256_castsi256_ps(_mm256_andnot_si256(from.b, to.b)))};
  }
  static float SumLanes(F x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float MaxLanes(F x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static I LoadI(const void* p) {
    const auto* v = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }
  static I SetI(int32_t value) {
    const __m256i v = _mm256_set1_epi32(value);
    return {v, v};
  }
  static I AddI(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I SubI(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static I AndI(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
  static I ShiftLeft(I x, int count) {
    return {_mm256_slli_epi32(x.a, count), _mm256_slli_epi32(x.b, count)};
  }
  static I ShiftRight(I x, int count) {
    return {_mm256_srli_epi32(x.a, count), _mm256_srli_epi32(x.b, count)};
  }
  static I Bits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
  static F FromBits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
  static F ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

  static F LoadF16(const void* p) {
    const auto* v = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(v)), _mm256_cvtph_ps(_mm_loadu_si128(v + 1))};
  }
  static F BroadcastF16(const void* p) {
    int16_t bits;
    __builtin_memcpy(&bits, p, sizeof(bits));
    const __m256 v = _mm256_cvtph_ps(_mm_set1_epi16(bits));
    return {v, v};
  }
  static F LoadBF16(const void* p) {
    const auto* v = static_cast<const __m128i*>(p);
    const auto widen = [](__m128i bits) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    };
    return {widen(_mm_loadu_si128(v)), widen(_mm_loadu_si128(v + 1))};
  }
  static void StoreF16(void* p, F x) {
    constexpr int kRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    auto* v = static_cast<__m128i*>(p);
    _mm_storeu_si128(v, _mm256_cvtps_ph(x.a, kRounding));
    _mm_storeu_si128(v + 1, _mm256_cvtps_ph(x.b, kRounding));
  }
  static F LowF16(I x) { return {LowF16(x.a), LowF16(x.b)}; }
  /// table[i] of each lane's i, below 16.
  static F Lookup(const float table[16], I i) { return {Lookup(table, i.a), Lookup(table, i.b)}; }
  static I LoadU8(const void* p) {
    const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
  }
  static I LoadI8(const void* p) {
    const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
  }
  static void StoreI8(void* p, I x) {
    // Packing works within 128-bit halves; the permutation restores the order.
    const __m256i words = _mm256_packs_epi32(x.a, x.b);
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128(
        static_cast<__m128i*>(p),
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
  }
  static I Round(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static I MaxU(I x, I y) { return {_mm256_max_epu32(x.a, y.a), _mm256_max_epu32(x.b, y.b)}; }
  static uint32_t MaxLanesU(I x) {
    const __m256i eight = _mm256_max_epu32(x.a, x.b);
    const __m128i four =
        _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
    const __m128i one = _mm_max_epu32(two, _mm_shuffle_epi32(two, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(one));
  }
  static int32_t SumLanesI(I x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
  }

 private:
  static void Transpose8(__m256 x[8]) {
    __m256 t[8];
    Unroll<4>([&](int i) HALFMOON_INLINE {
      t[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    });
    // Half h of x[4 i + j] is then column 4 h + j of rows 4 i .. 4 i + 3.
    Unroll<2>([&](int i) HALFMOON_INLINE {
      x[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      x[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
      x[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      x[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    });
    Unroll<4>([&](int j) HALFMOON_INLINE {
      t[j] = _mm256_permute2f128_ps(x[j], x[4 + j], 0x20);
      t[4 + j] = _mm256_permute2f128_ps(x[j], x[4 + j], 0x31);
    });
    Unroll<8>([&](int i) HALFMOON_INLINE { x[i] = t[i]; });
  }
  // All bits of the first `count` lanes.
  static I LessThan(int64_t count) {
    const __m256i n = _mm256_set1_epi32(static_cast<int>(count));
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(n, lane),
            _mm256_cmpgt_epi32(n, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
  }
  static __m256 Lookup(const float table[16], __m256i i) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
    // Bit 3 of i becomes the sign, which chooses.
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
  }
  static __m256 LowF16(__m256i x) {
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0xD8);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
  }
};

}  // namespace halfmoon::kernels::avx2
