// SPDX-License-Identifier: Apache-2.0
// Byte products for matmul_int8_impl.h on NEON. dot_dotprod.h shares all but the product itself,
// and that is here for cores without it: smull multiplies 2 output rows x 4 weights by 4
// activations into 16 bits, smlal adds more of them while they fit, and two pairwise sums make
// 32-bit ones of 4 rows, exactly.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/tile_format.h"

namespace halfmoon::kernels::neon {

/// What both forms have in common: vectors of 4 output rows, weights as signed bytes. `Dot` keeps
/// the functions of files with different instruction sets apart.
template <typename Dot>
struct DotBase {
  using Float = float32x4_t;
  using Int = int32x4_t;
  using Weights = int8x16_t;

  static constexpr int kLanes = 4;

  /// Quants beyond a signed byte lose 128 before the product.
  template <WeightFormat F>
  static constexpr bool kIsShifted = TileFormat<F>::kMaxQuant > 127;
  template <WeightFormat F>
  static int32_t Offset(int32_t /*zero*/) {
    return kIsShifted<F> ? 128 : 0;
  }
  template <WeightFormat F>
  static Weights Prepare(uint8x16_t quants, int /*zero*/) {
    if constexpr (kIsShifted<F>) quants = veorq_u8(quants, SetBytes(128));
    return vreinterpretq_s8_u8(quants);
  }

  static uint8x16_t Load(const uint8_t* p) { return vld1q_u8(p); }
  static uint8x16_t SetBytes(int value) { return vdupq_n_u8(static_cast<uint8_t>(value)); }
  static uint8x16_t And(uint8x16_t a, uint8x16_t b) { return vandq_u8(a, b); }
  /// a | (b & c)
  static uint8x16_t OrAnd(uint8x16_t a, uint8x16_t b, uint8x16_t c) {
    return vorrq_u8(a, vandq_u8(b, c));
  }
  /// Shifts of bytes: nothing comes in from the byte beside.
  static uint8x16_t ShiftRight(uint8x16_t a, int count) { return a >> count; }
  static uint8x16_t ShiftLeft(uint8x16_t a, int count) { return a << count; }
  /// The upper 4 bits of each byte.
  static uint8x16_t HighNibbles(uint8x16_t a) { return a >> 4; }
  static uint8x16_t Lookup(const uint8_t table[16], uint8x16_t codes) {
    return vqtbl1q_u8(vld1q_u8(table), codes);
  }

  static Int Zero() { return vdupq_n_s32(0); }
  static Int SetInts(int32_t value) { return vdupq_n_s32(value); }
  static Float SetFloats(float value) { return vdupq_n_f32(value); }
  static Float ToFloat(Int a) { return vcvtq_f32_s32(a); }
  static Float Mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float Fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float NegativeFma(Float a, Float b, Float c) { return vfmsq_f32(c, a, b); }
  static Float LoadF16(const uint8_t* p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
  static Float LoadBF16(const uint8_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
  }
  static Float LoadU8(const uint8_t* p) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(LoadFour(p)))));
  }
  static Float LoadI8(const uint8_t* p) {
    const int8x8_t bytes = vreinterpret_s8_u8(LoadFour(p));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
  }
  /// The first `count` floats, at most kLanes and possibly none, then zeros.
  static Float LoadPart(const float* p, int64_t count) {
    if (count >= kLanes) return vld1q_f32(p);
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
    return vld1q_f32(lanes);
  }
  static void StorePart(float* p, Float v, int64_t count) {
    if (count >= kLanes) return vst1q_f32(p, v);
    float lanes[kLanes];
    vst1q_f32(lanes, v);
    for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
  }
  HALFMOON_INLINE static void PrefetchL2(const uint8_t* p) { kernels::PrefetchL2(p); }
  HALFMOON_INLINE static void PrefetchL1(const uint8_t* p) { kernels::PrefetchL1(p); }

  /// Four bytes in the low half of an otherwise zero vector.
  static uint8x8_t LoadFour(const void* p) {
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return vreinterpret_u8_u32(uint32x2_t{word, 0});
  }
};

struct Dot : DotBase<Dot> {
  /// Sums of rows 0 and 1, of rows 2 and 3: one for each of the 4 inputs of a word.
  struct Narrow {
    int16x8_t low, high;
  };

  static constexpr bool kSumsWide = false;
  /// Words (4 inputs) whose 16-bit sums hold: a pair is at most 2 * 127 * the largest weight.
  template <WeightFormat F>
  static constexpr int kWordsPerSum = TileFormat<F>::kMaxQuant <= 15   ? 8   // 8 * 3810
                                      : TileFormat<F>::kMaxQuant <= 31 ? 4   // 4 * 7874
                                      : TileFormat<F>::kMaxQuant <= 63 ? 2   // 2 * 16002
                                                                       : 1;  // 32512
  // Four vectors of a tile with two registers each: more rows would spill.
  static constexpr int kMaxRows = 2;
  template <int R>
  static constexpr int kTiles = 1;

  template <WeightFormat F>
  static Narrow Multiply(Weights weights, int8x16_t activations) {
    return {vmull_s8(vget_low_s8(weights), vget_low_s8(activations)),
            vmull_high_s8(weights, activations)};
  }
  static Narrow AddNarrow(Narrow a, Narrow b) {
    return {vaddq_s16(a.low, b.low), vaddq_s16(a.high, b.high)};
  }
  static Int Widen(Int sums, Narrow narrow) {
    return vpadalq_s16(sums, vpaddq_s16(narrow.low, narrow.high));
  }
  static int8x16_t Words(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
  }
};

}  // namespace halfmoon::kernels::neon
