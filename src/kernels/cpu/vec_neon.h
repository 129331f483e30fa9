// SPDX-License-Identifier: Apache-2.0
// Sixteen float32 lanes as four NEON registers; the interface of vec_avx512.h. Nothing here needs
// more than ARMv8.0: conversions to and from float16 are part of it.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::neon {

struct Vec {
  struct F {
    float32x4_t a, b, c, d;
  };
  struct I {
    uint32x4_t a, b, c, d;
  };

  // 32 registers: four for each accumulator, and room for what is multiplied.
  static constexpr int kMatMulRows = 3;
  static constexpr int kAttendRows = 4;
  static constexpr int kAttendChunks = 1;
  static constexpr int kRowPositions = 1;  ///< positions of a row of V that a lane holds

  static F Zero() { return Set(0.0f); }
  static F Set(float value) {
    const float32x4_t v = vdupq_n_f32(value);
    return {v, v, v, v};
  }
  static F Load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
  }
  static F LoadPart(const float* p, int64_t count) {
    float lanes[16] = {};
    __builtin_memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
    return Load(lanes);
  }
  static void Store(float* p, F v) {
    vst1q_f32(p, v.a);
    vst1q_f32(p + 4, v.b);
    vst1q_f32(p + 8, v.c);
    vst1q_f32(p + 12, v.d);
  }
  static void StorePart(float* p, F v, int64_t count) {
    float lanes[16];
    Store(lanes, v);
    __builtin_memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
  }

  static void Transpose(F x[16]) {
    // Blocks of 4 x 4, turned within and exchanged across the diagonal.
    float32x4_t t[16][4];
    Unroll<4>([&](int i) HALFMOON_INLINE {
      const F* rows = x + 4 * i;
      Transpose4(rows[0].a, rows[1].a, rows[2].a, rows[3].a, i, t);
      Transpose4(rows[0].b, rows[1].b, rows[2].b, rows[3].b, i, t + 4);
      Transpose4(rows[0].c, rows[1].c, rows[2].c, rows[3].c, i, t + 8);
      Transpose4(rows[0].d, rows[1].d, rows[2].d, rows[3].d, i, t + 12);
    });
    Unroll<16>([&](int i) HALFMOON_INLINE { x[i] = {t[i][0], t[i][1], t[i][2], t[i][3]}; });
  }

  static F Add(F x, F y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
  }
  static F Sub(F x, F y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
  }
  static F Mul(F x, F y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
  }
  static F Div(F x, F y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
  }
  static F Fma(F x, F y, F z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
            vfmaq_f32(z.d, x.d, y.d)};
  }
  static F Negate(F x) { return {vnegq_f32(x.a), vnegq_f32(x.b), vnegq_f32(x.c), vnegq_f32(x.d)}; }
  // fmin and fmax would give NaN where either is; the kernels rely on y.
  static F Min(F x, F y) {
    return Select(
        {vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b), vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d)}, x, y);
  }
  static F Max(F x, F y) {
    return Select(
        {vcgtq_f32(x.a, y.a), vcgtq_f32(x.b, y.b), vcgtq_f32(x.c, y.c), vcgtq_f32(x.d, y.d)}, x, y);
  }
  static F ZeroBelow(F x, float limit, F value) {
    const float32x4_t l = vdupq_n_f32(limit);
    return Select({vcltq_f32(x.a, l), vcltq_f32(x.b, l), vcltq_f32(x.c, l), vcltq_f32(x.d, l)},
                  Zero(), value);
  }
  static F SelectLanes(F value, float other, int begin, int end) {
    return Select(LessThan(begin), Set(other), Select(LessThan(end), value, Set(other)));
  }
  static float SumLanes(F x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static float MaxLanes(F x) {
    const float32x4_t four = vmaxq_f32(vmaxq_f32(x.a, x.c), vmaxq_f32(x.b, x.d));
    return vmaxvq_f32(four);
  }

  static I LoadI(const void* p) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    return {LoadWords(bytes), LoadWords(bytes + 16), LoadWords(bytes + 32), LoadWords(bytes + 48)};
  }
  static I SetI(int32_t value) {
    const uint32x4_t v = vdupq_n_u32(static_cast<uint32_t>(value));
    return {v, v, v, v};
  }
  static I AddI(I x, I y) {
    return {vaddq_u32(x.a, y.a), vaddq_u32(x.b, y.b), vaddq_u32(x.c, y.c), vaddq_u32(x.d, y.d)};
  }
  static I SubI(I x, I y) {
    return {vsubq_u32(x.a, y.a), vsubq_u32(x.b, y.b), vsubq_u32(x.c, y.c), vsubq_u32(x.d, y.d)};
  }
  static I AndI(I x, I y) {
    return {vandq_u32(x.a, y.a), vandq_u32(x.b, y.b), vandq_u32(x.c, y.c), vandq_u32(x.d, y.d)};
  }
  static I ShiftLeft(I x, int count) {
    return {x.a << count, x.b << count, x.c << count, x.d << count};
  }
  static I ShiftRight(I x, int count) {
    return {x.a >> count, x.b >> count, x.c >> count, x.d >> count};
  }
  static I Bits(F x) {
    return {vreinterpretq_u32_f32(x.a), vreinterpretq_u32_f32(x.b), vreinterpretq_u32_f32(x.c),
            vreinterpretq_u32_f32(x.d)};
  }
  static F FromBits(I x) {
    return {vreinterpretq_f32_u32(x.a), vreinterpretq_f32_u32(x.b), vreinterpretq_f32_u32(x.c),
            vreinterpretq_f32_u32(x.d)};
  }
  static F ToFloat(I x) {
    return {vcvtq_f32_s32(Signed(x.a)), vcvtq_f32_s32(Signed(x.b)), vcvtq_f32_s32(Signed(x.c)),
            vcvtq_f32_s32(Signed(x.d))};
  }

  static F LoadF16(const void* p) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    const uint16x8_t low = LoadHalves(bytes);
    const uint16x8_t high = LoadHalves(bytes + 16);
    return {WidenF16(vget_low_u16(low)), WidenF16(vget_high_u16(low)), WidenF16(vget_low_u16(high)),
            WidenF16(vget_high_u16(high))};
  }
  static F BroadcastF16(const void* p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof(bits));
    const float32x4_t v = WidenF16(vdup_n_u16(bits));
    return {v, v, v, v};
  }
  static F LoadBF16(const void* p) {
    const auto* bytes = static_cast<const uint8_t*>(p);
    const uint16x8_t low = LoadHalves(bytes);
    const uint16x8_t high = LoadHalves(bytes + 16);
    return FromBits({vshll_n_u16(vget_low_u16(low), 16), vshll_n_u16(vget_high_u16(low), 16),
                     vshll_n_u16(vget_low_u16(high), 16), vshll_n_u16(vget_high_u16(high), 16)});
  }
  static void StoreF16(void* p, F x) {
    auto* bytes = static_cast<uint8_t*>(p);
    vst1q_u8(bytes, NarrowF16(x.a, x.b));
    vst1q_u8(bytes + 16, NarrowF16(x.c, x.d));
  }
  static F LowF16(I x) {
    return {WidenF16(vmovn_u32(x.a)), WidenF16(vmovn_u32(x.b)), WidenF16(vmovn_u32(x.c)),
            WidenF16(vmovn_u32(x.d))};
  }
  /// table[i] of each lane's i, below 16.
  static F Lookup(const float table[16], I i) {
    const uint8x16x4_t bytes = {LoadBytes(table), LoadBytes(table + 4), LoadBytes(table + 8),
                                LoadBytes(table + 12)};
    return {Lookup(bytes, i.a), Lookup(bytes, i.b), Lookup(bytes, i.c), Lookup(bytes, i.d)};
  }
  static I LoadU8(const void* p) {
    const uint8x16_t v = LoadBytes(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(v));
    const uint16x8_t high = vmovl_u8(vget_high_u8(v));
    return {vmovl_u16(vget_low_u16(low)), vmovl_u16(vget_high_u16(low)),
            vmovl_u16(vget_low_u16(high)), vmovl_u16(vget_high_u16(high))};
  }
  static I LoadI8(const void* p) {
    const int8x16_t v = vreinterpretq_s8_u8(LoadBytes(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(v));
    const int16x8_t high = vmovl_s8(vget_high_s8(v));
    return {Unsigned(vmovl_s16(vget_low_s16(low))), Unsigned(vmovl_s16(vget_high_s16(low))),
            Unsigned(vmovl_s16(vget_low_s16(high))), Unsigned(vmovl_s16(vget_high_s16(high)))};
  }
  static void StoreI8(void* p, I x) {
    const uint16x8_t low = vcombine_u16(vmovn_u32(x.a), vmovn_u32(x.b));
    const uint16x8_t high = vcombine_u16(vmovn_u32(x.c), vmovn_u32(x.d));
    vst1q_u8(static_cast<uint8_t*>(p), vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
  }
  static I Round(F x) {
    return {Unsigned(vcvtnq_s32_f32(x.a)), Unsigned(vcvtnq_s32_f32(x.b)),
            Unsigned(vcvtnq_s32_f32(x.c)), Unsigned(vcvtnq_s32_f32(x.d))};
  }
  static I MaxU(I x, I y) {
    return {vmaxq_u32(x.a, y.a), vmaxq_u32(x.b, y.b), vmaxq_u32(x.c, y.c), vmaxq_u32(x.d, y.d)};
  }
  static uint32_t MaxLanesU(I x) {
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(x.a, x.b), vmaxq_u32(x.c, x.d)));
  }
  static int32_t SumLanesI(I x) {
    return static_cast<int32_t>(vaddvq_u32(vaddq_u32(vaddq_u32(x.a, x.b), vaddq_u32(x.c, x.d))));
  }

 private:
  static int32x4_t Signed(uint32x4_t x) { return vreinterpretq_s32_u32(x); }
  static uint32x4_t Unsigned(int32x4_t x) { return vreinterpretq_u32_s32(x); }
  // Loads of bytes: what lies in tiles and pages need not be aligned to more.
  static uint8x16_t LoadBytes(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
  static uint32x4_t LoadWords(const uint8_t* p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
  static uint16x8_t LoadHalves(const uint8_t* p) { return vreinterpretq_u16_u8(vld1q_u8(p)); }

  static float32x4_t WidenF16(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
  static uint8x16_t NarrowF16(float32x4_t low, float32x4_t high) {
    return vreinterpretq_u8_f16(vcombine_f16(vcvt_f16_f32(low), vcvt_f16_f32(high)));
  }
  // x where the bits of `mask` are set, else y.
  static F Select(I mask, F x, F y) {
    return {vbslq_f32(mask.a, x.a, y.a), vbslq_f32(mask.b, x.b, y.b), vbslq_f32(mask.c, x.c, y.c),
            vbslq_f32(mask.d, x.d, y.d)};
  }
  // All bits of the first `count` lanes.
  static I LessThan(int count) {
    const int32x4_t n = vdupq_n_s32(count);
    const int32x4_t lane = {0, 1, 2, 3};
    return {vcgtq_s32(n, lane), vcgtq_s32(n, vaddq_s32(lane, vdupq_n_s32(4))),
            vcgtq_s32(n, vaddq_s32(lane, vdupq_n_s32(8))),
            vcgtq_s32(n, vaddq_s32(lane, vdupq_n_s32(12)))};
  }
  static float32x4_t Lookup(const uint8x16x4_t& table, uint32x4_t i) {
    // The four bytes of float i.
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100u), i, 0x04040404u);
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)));
  }
  // out[j][column] = lane j of the four.
  static void Transpose4(float32x4_t r0, float32x4_t r1, float32x4_t r2, float32x4_t r3, int column,
                         float32x4_t out[][4]) {
    const float64x2_t even_above = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1));
    const float64x2_t odd_above = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
    const float64x2_t even_below = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3));
    const float64x2_t odd_below = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
    out[0][column] = vreinterpretq_f32_f64(vtrn1q_f64(even_above, even_below));
    out[1][column] = vreinterpretq_f32_f64(vtrn1q_f64(odd_above, odd_below));
    out[2][column] = vreinterpretq_f32_f64(vtrn2q_f64(even_above, even_below));
    out[3][column] = vreinterpretq_f32_f64(vtrn2q_f64(odd_above, odd_below));
  }
};

}  // namespace halfmoon::kernels::neon
