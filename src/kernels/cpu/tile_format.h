// SPDX-License-Identifier: Apache-2.0
// Constants of the quantised tile formats (packed_matrix.h) for packers and kernels. Only
// constants: this header is compiled for every ISA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_matrix.h"

namespace halfmoon::kernels {

/// What the 4-bit codes of a lookup format stand for, plus the matrix's zero.
inline constexpr uint8_t kIQ4Table[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};
inline constexpr uint8_t kMXFP4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                            12, 11, 10, 9,  8,  6,  4,  0};

/// How the quants and scales of a quantised tile lie. A scale block covers `kScaleGroups` groups of
/// 32.
template <WeightFormat F>
struct TileFormat {
  using enum WeightFormat;
  static constexpr bool kIsLookup = F == kL4D || F == kL4B || F == kL4S;
  static constexpr int kBits = F == kU8D || F == kU8B                 ? 8
                               : F == kU6S                            ? 6
                               : F == kU5D || F == kU5DM || F == kU5K ? 5
                                                                      : 4;
  /// quants are nibbles, and planes of the bits above them
  static constexpr bool kHasNibbles = kBits < 8;
  static constexpr int kHighBits = kHasNibbles ? kBits - 4 : 0;
  static constexpr int kHighMask = ((1 << kHighBits) - 1) << 4;  ///< where they belong in a quant
  /// words of 4 inputs whose high bits share a byte of a row
  static constexpr int kHighWords = kHighBits == 2 ? 4 : 8;
  /// the largest quant, looked up
  static constexpr int kMaxQuant = F == kL4B   ? 24
                                   : kIsLookup ? 241
                                   : F == kU4S ? 7
                                               : (1 << kBits) - 1;
  /// d is bf16 instead of f16
  static constexpr bool kHasBf16Scale = F == kU4B || F == kU8B || F == kL4B;
  /// a scale per 16 inputs, and a minimum where there is one
  static constexpr bool kHalves = F == kU6S || F == kU4S || F == kU4H;
  static constexpr bool kIsSuper = F == kU4K || F == kU5K || F == kL4S || kHalves;
  static constexpr bool kHasMin = F == kU4DM || F == kU5DM || F == kU4K || F == kU5K || F == kU4H;
  static constexpr int kNumScales = kHalves ? 16 : 8;  ///< sc and mn of a superblock
  static constexpr int kHighOffset = 256;              ///< of the high bits in a group
  static constexpr int kGroupBytes = kHasNibbles ? kHighOffset + 64 * kHighBits : 512;
  static constexpr int kScaleGroups = kIsSuper ? 8 : 1;
  static constexpr int kMinOffset = 32;  ///< f16 m[16] or dmin[16]
  static constexpr int kScOffset =
      kHasMin ? 64 : 32;  ///< u8 sc[kNumScales][16]; i8 without minimum
  static constexpr int kMnOffset = kScOffset + kNumScales * 16;  ///< u8 mn[kNumScales][16]
  static constexpr int kScaleBytes =
      (kHasMin ? 64 : 32) + (kIsSuper ? (kHasMin ? 2 : 1) * kNumScales * 16 : 0);

  /// Where the high bits of word `word` of a group lie: chunk of 64 bytes, and lowest bit there.
  static constexpr int HighChunk(int word) { return kHighOffset + word / kHighWords * 64; }
  static constexpr int HighBit(int word) { return word % kHighWords * kHighBits; }
  static constexpr const uint8_t* Table() { return F == kL4B ? kMXFP4Table : kIQ4Table; }
};

}  // namespace halfmoon::kernels
