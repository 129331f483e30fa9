// SPDX-License-Identifier: Apache-2.0
// Byte products for matmul_int8_impl.h on AVX-512 VNNI: vpdpbusd multiplies 16 output rows x 4
// unsigned weights by 4 signed activations, broadcast, and adds them to 32-bit sums.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/tile_format.h"

namespace halfmoon::kernels::avx512 {

struct Dot {
  using Float = __m512;
  using Int = __m512i;
  using Weights = __m512i;
  using Narrow = __m512i;

  static constexpr int kLanes = 16;
  static constexpr bool kSumsWide = true;
  template <WeightFormat F>
  static constexpr int kWordsPerSum = 8;
  // Two tiles share the load of each activation word, which is as scarce as the products; with 4
  // rows their sums and accumulators take half of the registers. 8 rows of one tile: 16 % slower.
  static constexpr int kMaxRows = 4;
  template <int R>
  static constexpr int kTiles = R <= 2 ? 4 : 2;

  /// What is subtracted from quants before the product.
  template <WeightFormat F>
  static int32_t Offset(int32_t /*zero*/) {
    return 0;
  }
  template <WeightFormat F>
  static Weights Prepare(__m512i quants, int /*zero*/) {
    return quants;
  }
  template <WeightFormat F>
  static Int Dot4(Int sums, Weights weights, __m512i activations) {
    return _mm512_dpbusd_epi32(sums, weights, activations);
  }
  static __m512i Words(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return _mm512_set1_epi32(word);
  }

  static __m512i Load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static __m512i SetBytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static __m512i And(__m512i a, __m512i b) { return _mm512_and_si512(a, b); }
  /// a | (b & c)
  static __m512i OrAnd(__m512i a, __m512i b, __m512i c) {
    return _mm512_ternarylogic_epi32(a, b, c, 0xF8);
  }
  /// Shifts of 16-bit lanes.
  static __m512i ShiftRight(__m512i a, int count) {
    return _mm512_srli_epi16(a, static_cast<unsigned>(count));
  }
  static __m512i ShiftLeft(__m512i a, int count) {
    return _mm512_slli_epi16(a, static_cast<unsigned>(count));
  }
  /// The upper 4 bits of each byte.
  static __m512i HighNibbles(__m512i a) { return And(ShiftRight(a, 4), SetBytes(15)); }
  static __m512i Lookup(const uint8_t table[16], __m512i codes) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), codes);
  }

  static Int Zero() { return _mm512_setzero_si512(); }
  static Int SetInts(int32_t value) { return _mm512_set1_epi32(value); }
  static Float SetFloats(float value) { return _mm512_set1_ps(value); }
  static Float ToFloat(Int a) { return _mm512_cvtepi32_ps(a); }
  static Float Mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float Fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float NegativeFma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
  static Float LoadF16(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Float LoadBF16(const uint8_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static Float LoadU8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static Float LoadI8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  /// The first `count` floats, at most kLanes and possibly none, then zeros.
  static Float LoadPart(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(Mask(count), p);
  }
  static void StorePart(float* p, Float v, int64_t count) {
    _mm512_mask_storeu_ps(p, Mask(count), v);
  }
  // Always inline: GCC 12 takes a function that only prefetches for one without effect.
  HALFMOON_INLINE static void PrefetchL2(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T1); }
  HALFMOON_INLINE static void PrefetchL1(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T0); }

 private:
  static __mmask16 Mask(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xFFFFu : (1u << count) - 1u);
  }
};

}  // namespace halfmoon::kernels::avx512
