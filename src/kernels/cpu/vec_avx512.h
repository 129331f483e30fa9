// SPDX-License-Identifier: Apache-2.0
// Sixteen float32 lanes on AVX-512 for the *_impl.h kernels. vec_avx2.h has the same interface.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::avx512 {

struct Vec {
  using F = __m512;   ///< 16 floats
  using I = __m512i;  ///< 16 32-bit integers

  static constexpr int kMatMulRows = 8;    ///< rows that matmul_f32_impl.h keeps in registers
  static constexpr int kAttendRows = 8;    ///< the same for attention_impl.h
  static constexpr int kAttendChunks = 2;  ///< vectors of V that share a row's weight
  static constexpr int kRowPositions = 1;  ///< positions of a row of V that a lane holds

  static __mmask16 Mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float value) { return _mm512_set1_ps(value); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  /// The first `count` < 16 floats, then zeros.
  static F LoadPart(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(Mask(count), p); }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void StorePart(float* p, F v, int64_t count) { _mm512_mask_storeu_ps(p, Mask(count), v); }

  /// Lane j of x[i] and lane i of x[j] change places.
  static void Transpose(F x[16]) {
    F t[16];
    Unroll<8>([&](int i) HALFMOON_INLINE {
      t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    });
    // Quarter q of x[4 i + j] is then column 4 q + j of rows 4 i .. 4 i + 3.
    Unroll<4>([&](int i) HALFMOON_INLINE {
      x[4 * i] = LowPairs(t[4 * i], t[4 * i + 2]);
      x[4 * i + 1] = HighPairs(t[4 * i], t[4 * i + 2]);
      x[4 * i + 2] = LowPairs(t[4 * i + 1], t[4 * i + 3]);
      x[4 * i + 3] = HighPairs(t[4 * i + 1], t[4 * i + 3]);
    });
    Unroll<4>([&](int j) HALFMOON_INLINE {
      const F even_above = _mm512_shuffle_f32x4(x[j], x[4 + j], 0x88);
      const F even_below = _mm512_shuffle_f32x4(x[8 + j], x[12 + j], 0x88);
      const F odd_above = _mm512_shuffle_f32x4(x[j], x[4 + j], 0xDD);
      const F odd_below = _mm512_shuffle_f32x4(x[8 + j], x[12 + j], 0xDD);
      t[j] = _mm512_shuffle_f32x4(even_above, even_below, 0x88);
      t[4 + j] = _mm512_shuffle_f32x4(odd_above, odd_below, 0x88);
      t[8 + j] = _mm512_shuffle_f32x4(even_above, even_below, 0xDD);
      t[12 + j] = _mm512_shuffle_f32x4(odd_above, odd_below, 0xDD);
    });
    Unroll<16>([&](int i) HALFMOON_INLINE { x[i] = t[i]; });
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Negate(F a) { return _mm512_xor_ps(a, Set(-0.0f)); }
  /// b where either is NaN.
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  /// value where x >= limit or x is NaN, else 0.
  static F ZeroBelow(F x, float limit, F value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, Set(limit), _CMP_NLT_UQ), value);
  }
  /// value in lanes [begin, end), `other` elsewhere; 0 <= begin <= end <= 16.
  static F SelectLanes(F value, float other, int begin, int end) {
    const auto mask = static_cast<__mmask16>(((1u << end) - 1u) & ~((1u << begin) - 1u));
    return _mm512_mask_mov_ps(Set(other), mask, value);
  }
  /// Lanes added pairwise (i, i+8), (i, i+4), (i, i+2), (i, i+1).
  static float SumLanes(F v) {
    const __m256 low = _mm512_castps512_ps256(v);
    const __m256 high = _mm512_extractf32x8_ps(v, 1);
    return SumLanes8(_mm256_add_ps(low, high));
  }
  static float MaxLanes(F v) { return _mm512_reduce_max_ps(v); }

  static I LoadI(const void* p) { return _mm512_loadu_si512(p); }
  static I SetI(int32_t value) { return _mm512_set1_epi32(value); }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I AndI(I a, I b) { return _mm512_and_si512(a, b); }
  static I ShiftLeft(I a, int count) { return _mm512_slli_epi32(a, static_cast<unsigned>(count)); }
  static I ShiftRight(I a, int count) { return _mm512_srli_epi32(a, static_cast<unsigned>(count)); }
  static I Bits(F a) { return _mm512_castps_si512(a); }
  static F FromBits(I a) { return _mm512_castsi512_ps(a); }
  static F ToFloat(I a) { return _mm512_cvtepi32_ps(a); }

  static F LoadF16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  /// One float16 in every lane.
  static F BroadcastF16(const void* p) {
    int16_t bits;
    __builtin_memcpy(&bits, p, sizeof(bits));
    return _mm512_cvtph_ps(_mm256_set1_epi16(bits));
  }
  static F LoadBF16(const void* p) {
    const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static void StoreF16(void* p, F v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  /// float16 in the low 16 bits of each lane.
  static F LowF16(I a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
  /// table[i] of each lane's i, below 16.
  static F Lookup(const float table[16], I i) { return _mm512_permutexvar_ps(i, Load(table)); }
  static I LoadU8(const void* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static I LoadI8(const void* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  /// Lanes of a, in [-128, 127], as 16 bytes.
  static void StoreI8(void* p, I a) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  /// Nearest integers, ties to even.
  static I Round(F a) { return _mm512_cvtps_epi32(a); }
  static I MaxU(I a, I b) { return _mm512_max_epu32(a, b); }
  static uint32_t MaxLanesU(I a) { return _mm512_reduce_max_epu32(a); }
  static int32_t SumLanesI(I a) { return _mm512_reduce_add_epi32(a); }

 private:
  /// Of each quarter, the lower two lanes of a, then of b.
  static F LowPairs(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  /// The same with the upper two.
  static F HighPairs(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static float SumLanes8(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace halfmoon::kernels::avx512
