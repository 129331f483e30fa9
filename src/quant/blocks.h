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
