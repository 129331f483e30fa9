// SPDX-License-Identifier: Apache-2.0
// Byte products for matmul_int8_impl.h on AVX2: vpmaddubsw multiplies 8 output rows x 4 weights by
// 4 activations, broadcast, and adds neighbours in 16 bits; how many of those sums fit before they
// widen to 32 bits follows from the largest weight, so that every sum is exact.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/tile_format.h"

namespace halfmoon::kernels::avx2 {

struct Dot {
  using Float = __m256;
  using Int = __m256i;
  using Narrow = __m256i;
  /// Weights as sign and size where they are too large for unsigned ones.
  struct Weights {
    __m256i size;
    __m256i sign;
  };

  static constexpr int kLanes = 8;
  static constexpr bool kSumsWide = false;
  /// Words (4 inputs) whose 16-bit sums hold: a pair is at most 2 * 127 * the largest weight.
  template <WeightFormat F>
  static constexpr int kWordsPerSum = TileFormat<F>::kMaxQuant <= 15   ? 8   // 8 * 3810
                                      : TileFormat<F>::kMaxQuant <= 31 ? 4   // 4 * 7874
                                      : TileFormat<F>::kMaxQuant <= 63 ? 2   // 2 * 16002
                                                                       : 1;  // 32512
  static constexpr int kMaxRows = 4;
  template <int R>
  static constexpr int kTiles = R == 1 ? 2 : 1;

  template <WeightFormat F>
  static constexpr bool kIsSigned = kWordsPerSum<F> == 1;
  /// What is subtracted from quants before the product.
  template <WeightFormat F>
  static int32_t Offset(int32_t zero) {
    return kIsSigned<F> ? zero : 0;
  }
  template <WeightFormat F>
  static Weights Prepare(__m256i quants, int zero) {
    if constexpr (!kIsSigned<F>) return {quants, quants};
    const __m256i sign = _mm256_sub_epi8(quants, SetBytes(zero));
    return {_mm256_abs_epi8(sign), sign};
  }
  template <WeightFormat F>
  static Narrow Multiply(const Weights& weights, __m256i activations) {
    // |w| times a with the sign of w: a is at least -127, so its negative fits.
    if constexpr (kIsSigned<F>) activations = _mm256_sign_epi8(activations, weights.sign);
    return _mm256_maddubs_epi16(weights.size, activations);
  }
  static Narrow AddNarrow(Narrow a, Narrow b) { return _mm256_add_epi16(a, b); }
  static Int Widen(Int sums, Narrow narrow) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
  }
  static __m256i Words(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return _mm256_set1_epi32(word);
  }

  static __m256i Load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i SetBytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static __m256i And(__m256i a, __m256i b) { return _mm256_and_si256(a, b); }
  /// a | (b & c)
  static __m256i OrAnd(__m256i a, __m256i b, __m256i c) {
    return _mm256_or_si256(a, _mm256_and_si256(b, c));
  }
  /// Shifts of 16-bit lanes.
  static __m256i ShiftRight(__m256i a, int count) { return _mm256_srli_epi16(a, count); }
  static __m256i ShiftLeft(__m256i a, int count) { return _mm256_slli_epi16(a, count); }
  /// The upper 4 bits of each byte.
  static __m256i HighNibbles(__m256i a) { return And(ShiftRight(a, 4), SetBytes(15)); }
  static __m256i Lookup(const uint8_t table[16], __m256i codes) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), codes);
  }

  static Int Zero() { return _mm256_setzero_si256(); }
  static Int SetInts(int32_t value) { return _mm256_set1_epi32(value); }
  static Float SetFloats(float value) { return _mm256_set1_ps(value); }
  static Float ToFloat(Int a) { return _mm256_cvtepi32_ps(a); }
  static Float Mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float Fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float NegativeFma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
  static Float LoadF16(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Float LoadBF16(const uint8_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Float LoadU8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static Float LoadI8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  /// The first `count` floats, at most kLanes and possibly none, then zeros.
  static Float LoadPart(const float* p, int64_t count) {
    return _mm256_maskload_ps(p, Mask(count));
  }
  static void StorePart(float* p, Float v, int64_t count) {
    _mm256_maskstore_ps(p, Mask(count), v);
  }
  // Always inline: GCC 12 takes a function that only prefetches for one without effect.
  HALFMOON_INLINE static void PrefetchL2(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T1); }
  HALFMOON_INLINE static void PrefetchL1(const uint8_t* p) { _mm_prefetch(p, _MM_HINT_T0); }

 private:
  static __m256i Mask(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
  }
};

}  // namespace halfmoon::kernels::avx2
