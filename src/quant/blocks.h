// SPDX-License-Identifier: Apache-2.0
// Layout of the block formats as they lie in GGUF files, byte for byte
// (docs/formats/checkpoints.md). Multi-byte fields are little-endian; d, dmin and m are float16
// bits.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace halfmoon::quant {

static_assert(std::endian::native == std::endian::little,
              "block fields are read in place: they are little-endian");

// Of 32 values, byte j holds value j in its low nibble and value j + 16 in its high one. Bit j of
// qh, a little-endian 32-bit word, is the fifth bit of value j.
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};

// 256 values in 8 groups of 32. `scales` packs 8 scales and 8 minima of 6 bits. 32 bytes of qs hold
// two groups: the even one in the low nibbles, the odd one in the high. Bit g of qh[j] is the fifth
// bit of value j of group g.
struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};

// 256 values in two halves of 128, each half in four quarters of 32. Within a half, quarter c's
// value j has its low 4 bits in ql[j + 32 * (c % 2)], in the low nibble for c < 2 and the high one
// else, and its upper 2 bits in bits 2c of qh[j].
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};

// 256 values in 16 groups of 16. Byte g of `scales`: scale of group g in the low nibble, minimum in
// the high. Value j of quarter c (32 values) of a half of 128 is in bits 2c of qs[32 * half + j].
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d;
  uint16_t dmin;
};

// As BlockQ2_K, with a third bit for value j of quarter c of all 256: bit c of hmask[j]. Scales are
// 6 bits: byte g of the first 8 has the low nibbles of groups g and g + 8, and bits 2 (g / 4) of
// byte 8 + g % 4 the upper two of group g.
struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};

// Nibble pairs as in BlockQ4_0, which index kIQ4Values.
struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};

// 8 groups of 32, each 16 nibble pairs. Scales are 6 bits: nibble g of scales_l, bits 2g of
// scales_h.
struct BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};

// Nibble pairs as in BlockQ4_0, which index kMXFP4Values; the scale is 2^(e - 128).
struct BlockMXFP4 {
  uint8_t e;
  uint8_t qs[16];
};

// Digits of base 3, five in a byte of qs and four in one of qh, as the byte over 256 (over 243,
// rounded up): the first is floor(3 byte / 256), the next that of byte * 3 mod 256. Digit n of 32
// bytes, then of 16, then of 4, side by side.
struct BlockTQ1_0 {
  uint8_t qs[48];
  uint8_t qh[4];
  uint16_t d;
};

// Two bits a value, as the quants of BlockQ2_K.
struct BlockTQ2_0 {
  uint8_t qs[64];
  uint16_t d;
};

/// What the nibbles of IQ4_NL and IQ4_XS stand for.
inline constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
/// Twice what the nibbles of MXFP4 (E2M1) stand for.
inline constexpr int8_t kMXFP4Values[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                            0, -1, -2, -3, -4, -6, -8, -12};

static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockIQ4_NL) == 18);
static_assert(sizeof(BlockIQ4_XS) == 136 && sizeof(BlockMXFP4) == 17);
static_assert(sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

/// Copy in and out: blocks in files have no alignment.
template <typename Block>
Block LoadBlock(const std::byte* bytes) {
  Block block;
  std::memcpy(&block, bytes, sizeof(block));
  return block;
}
template <typename Block>
void StoreBlock(const Block& block, std::byte* bytes) {
  std::memcpy(bytes, &block, sizeof(block));
}

}  // namespace halfmoon::quant
