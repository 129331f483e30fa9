// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack_tile.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/tile_format.h"
#include "quant/blocks.h"
#include "quant/unpack.h"
#include "tensor/float16.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

static_assert(std::endian::native == std::endian::little,
              "words are assembled from bytes in place");

constexpr int kRows = static_cast<int>(kTileRows);
constexpr uint32_t kLowNibbles = 0x0F0F0F0Fu;

uint32_t LoadWord(const void* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// Word r of chunk c of the group at `group`.
void StoreWord(uint8_t* group, int chunk, int r, uint32_t word) {
  std::memcpy(group + chunk * 64 + 4 * r, &word, sizeof(word));
}

void StoreF16(uint8_t* scales, int r, uint16_t bits) {
  std::memcpy(scales + 2 * r, &bits, sizeof(bits));
}

// Rows of 4-byte units (a float, or two 16-bit floats side by side): out[unit][16] = in[16][unit].
// `tail_bytes` of a last, partial unit follow.
void PackUnits(const std::byte* const rows[], const TileTarget& target, int64_t units,
               size_t tail_bytes) {
  // 16 x 16 units at a time: one cache line read from each row, 16 whole lines written.
  for (int64_t begin = 0; begin < units; begin += 16) {
    const int64_t end = std::min(units, begin + 16);
    for (int r = 0; r < target.rows; ++r) {
      for (int64_t u = begin; u < end; ++u) {
        std::memcpy(target.quants + u * 64 + 4 * r, rows[r] + u * 4, 4);
      }
    }
  }
  if (tail_bytes == 0) return;
  for (int r = 0; r < target.rows; ++r) {
    std::memcpy(target.quants + units * 64 + 4 * r, rows[r] + units * 4, tail_bytes);
  }
}

// The 16 bytes of 32 nibbles as Q4_0 and Q4_1 store them: value j low in byte j, value j + 16 high.
void PackNibbles(const uint8_t qs[16], uint8_t* group, int r) {
  for (int half = 0; half < 2; ++half) {
    const uint32_t first = LoadWord(qs + 8 * half);
    const uint32_t second = LoadWord(qs + 8 * half + 4);
    StoreWord(group, half, r, (first & kLowNibbles) | (second & kLowNibbles) << 4);
    StoreWord(group, half + 2, r, (first >> 4 & kLowNibbles) | (second & ~kLowNibbles));
  }
}

// Q4_0, Q4_1 and Q8_0 skip the general path: models in them start several times faster.
void PackQ4_0(const std::byte* row, int r, const TileTarget& target) {
  using Format = TileFormat<WeightFormat::kU4D>;
  for (int64_t g = 0; g < target.cols / kGroup; ++g) {
    const auto block = quant::LoadBlock<quant::BlockQ4_0>(row + g * sizeof(quant::BlockQ4_0));
    PackNibbles(block.qs, target.quants + g * Format::kGroupBytes, r);
    StoreF16(target.scales + g * Format::kScaleBytes, r, block.d);
  }
}

void PackQ4_1(const std::byte* row, int r, const TileTarget& target) {
  using Format = TileFormat<WeightFormat::kU4DM>;
  for (int64_t g = 0; g < target.cols / kGroup; ++g) {
    const auto block = quant::LoadBlock<quant::BlockQ4_1>(row + g * sizeof(quant::BlockQ4_1));
    PackNibbles(block.qs, target.quants + g * Format::kGroupBytes, r);
    StoreF16(target.scales + g * Format::kScaleBytes, r, block.d);
    StoreF16(target.scales + g * Format::kScaleBytes + Format::kMinOffset, r, block.m);
  }
}

void PackQ8_0(const std::byte* row, int r, const TileTarget& target) {
  using Format = TileFormat<WeightFormat::kU8D>;
  for (int64_t g = 0; g < target.cols / kGroup; ++g) {
    const auto block = quant::LoadBlock<quant::BlockQ8_0>(row + g * sizeof(quant::BlockQ8_0));
    for (int chunk = 0; chunk < 8; ++chunk) {
      // Adding 128 to each signed byte flips its top bit.
      StoreWord(target.quants + g * Format::kGroupBytes, chunk, r,
                LoadWord(block.qs + 4 * chunk) ^ 0x80808080u);
    }
    StoreF16(target.scales + g * Format::kScaleBytes, r, block.d);
  }
}

static_assert([] {
  for (int i = 0; i < 16; ++i) {
    if (kIQ4Table[i] != quant::kIQ4Values[i] + 128) return false;
    if (kMXFP4Table[i] != quant::kMXFP4Values[i] + 12) return false;
  }
  return true;
}());

// The code of every value of a lookup format. Equal values (0 and -0) have one code.
template <WeightFormat F>
constexpr std::array<uint8_t, 256> CodesOfValues() {
  std::array<uint8_t, 256> codes{};
  for (uint8_t code = 16; code-- > 0;) codes[TileFormat<F>::Table()[code]] = code;
  return codes;
}

template <WeightFormat F>
void PackQuants(const uint8_t q[32], uint8_t* group, int r) {
  using Format = TileFormat<F>;
  if constexpr (Format::kIsLookup) {
    static constexpr std::array<uint8_t, 256> kCodes = CodesOfValues<F>();
    for (int half = 0; half < 4; ++half) {
      uint8_t codes[8];
      for (int i = 0; i < 8; ++i) codes[i] = kCodes[q[8 * half + i]];
      StoreWord(group, half, r, LoadWord(codes) | LoadWord(codes + 4) << 4);
    }
  } else if constexpr (Format::kHasNibbles) {
    for (int chunk = 0; chunk < 4; ++chunk) {
      StoreWord(group, chunk, r,
                (LoadWord(q + 8 * chunk) & kLowNibbles) |
                    (LoadWord(q + 8 * chunk + 4) & kLowNibbles) << 4);
    }
    constexpr uint32_t kHighest = Format::kHighMask * 0x01010101u;
    for (int word = 0; Format::kHighBits > 0 && word < 8; word += Format::kHighWords) {
      uint32_t bits = 0;
      for (int i = word; i < word + Format::kHighWords; ++i) {
        bits |= (LoadWord(q + 4 * i) & kHighest) >> 4 << Format::HighBit(i);
      }
      StoreWord(group, Format::HighChunk(word) / 64, r, bits);
    }
  } else {
    for (int chunk = 0; chunk < 8; ++chunk) StoreWord(group, chunk, r, LoadWord(q + 4 * chunk));
  }
}

// The scales of one block in the scale block at `scales`.
template <WeightFormat F>
void PackBlockScales(const quant::QuantTraits& traits, const quant::UnpackedBlock& block,
                     uint8_t* scales, int r) {
  using Format = TileFormat<F>;
  if constexpr (Format::kHasBf16Scale) {
    // A power of two, which bf16 holds exactly, below the normal numbers too.
    const auto bits = std::bit_cast<uint32_t>(quant::PowerScale(block.sc[0]));
    return StoreF16(scales, r, static_cast<uint16_t>(bits >> 16));
  }
  StoreF16(scales, r, block.d_f16);
  if constexpr (Format::kHasMin) StoreF16(scales + Format::kMinOffset, r, block.m_f16);
  if constexpr (Format::kIsSuper) {
    // A scale for 32 inputs stands twice where the format has one for 16.
    const int inputs = traits.super / Format::kNumScales;
    for (int i = 0; i < Format::kNumScales; ++i) {
      const int group = i * inputs / traits.group;
      scales[Format::kScOffset + i * kRows + r] = block.sc[group];
      if constexpr (Format::kHasMin) scales[Format::kMnOffset + i * kRows + r] = block.mn[group];
    }
  }
}

// Any block format by way of its plain integers.
template <WeightFormat F>
void PackBlocks(DType dtype, const std::byte* row, int r, const TileTarget& target) {
  using Format = TileFormat<F>;
  const quant::QuantTraits& traits = *quant::TraitsOf(dtype);
  const int groups = traits.super / static_cast<int>(kGroup);
  const int block_bytes = tensor::Info(dtype).block_bytes;
  quant::UnpackedBlock block;
  for (int64_t g = 0; g < target.cols / kGroup; g += groups) {
    quant::UnpackBlock(dtype, row, &block);
    row += block_bytes;
    for (int sub = 0; sub < groups; ++sub) {
      PackQuants<F>(block.q + sub * kGroup, target.quants + (g + sub) * Format::kGroupBytes, r);
    }
    for (int sub = 0; sub < groups; sub += Format::kScaleGroups) {
      PackBlockScales<F>(traits, block,
                         target.scales + (g + sub) / Format::kScaleGroups * Format::kScaleBytes, r);
    }
  }
}

void PackRow(DType dtype, const std::byte* row, int r, const TileTarget& target) {
  switch (dtype) {
    case DType::kQ4_0:
      return PackQ4_0(row, r, target);
    case DType::kQ4_1:
      return PackQ4_1(row, r, target);
    case DType::kQ8_0:
      return PackQ8_0(row, r, target);
    case DType::kQ5_0:
      return PackBlocks<WeightFormat::kU5D>(dtype, row, r, target);
    case DType::kQ5_1:
      return PackBlocks<WeightFormat::kU5DM>(dtype, row, r, target);
    case DType::kQ4_K:
      return PackBlocks<WeightFormat::kU4K>(dtype, row, r, target);
    case DType::kQ5_K:
      return PackBlocks<WeightFormat::kU5K>(dtype, row, r, target);
    case DType::kQ6_K:
      return PackBlocks<WeightFormat::kU6S>(dtype, row, r, target);
    case DType::kQ3_K:
      return PackBlocks<WeightFormat::kU4S>(dtype, row, r, target);
    case DType::kQ2_K:
      return PackBlocks<WeightFormat::kU4H>(dtype, row, r, target);
    case DType::kIQ4_NL:
      return PackBlocks<WeightFormat::kL4D>(dtype, row, r, target);
    case DType::kIQ4_XS:
      return PackBlocks<WeightFormat::kL4S>(dtype, row, r, target);
    case DType::kMXFP4:
      return PackBlocks<WeightFormat::kL4B>(dtype, row, r, target);
    case DType::kTQ1_0:
    case DType::kTQ2_0:
      return PackBlocks<WeightFormat::kU4D>(dtype, row, r, target);
    default:
      HM_CHECK(false, std::string(tensor::Info(dtype).name));
  }
}

float LoadScale(DType dtype, const std::byte* row, int64_t index) {
  if (dtype == DType::kF8E8M0) return tensor::F8E8M0ToF32(static_cast<uint8_t>(row[index]));
  if (dtype == DType::kBF16) {
    uint16_t bits;
    std::memcpy(&bits, row + index * 2, sizeof(bits));
    return tensor::BF16ToF32(bits);
  }
  float scale;
  std::memcpy(&scale, row + index * 4, sizeof(scale));
  return scale;
}

// F8_E4M3: words of 4 inputs; a scale for each 128 inputs, 256 times as large because kernels
// decode the values 256 times too small (matmul_f32_impl.h).
void PackF8(const std::byte* const rows[], const TileScales& scales, const TileTarget& target) {
  PackUnits(rows, target, target.cols / 4, static_cast<size_t>(target.cols % 4));
  for (int64_t g = 0; g * kF8Group < target.cols; ++g) {
    for (int r = 0; r < target.rows; ++r) {
      const float scale =
          LoadScale(scales.dtype, scales.rows[r], g * kF8Group / scales.group) * 256.0f;
      std::memcpy(target.scales + g * 64 + r * 4, &scale, sizeof(scale));
    }
  }
}

// 4-bit or 8-bit integers in words, low bits first; F is the format with f16 or bf16 scales, which
// are 16 bits wide both and lie in the same place.
template <WeightFormat F>
void PackWords(const std::byte* const rows[], const TileScales& scales, const TileTarget& target) {
  using Format = TileFormat<F>;
  for (int r = 0; r < target.rows; ++r) {
    for (int64_t g = 0; g < target.cols / kGroup; ++g) {
      uint8_t q[kGroup];
      if constexpr (Format::kHasNibbles) {
        for (int word = 0; word < 4; ++word) {
          const uint32_t packed = LoadWord(rows[r] + g * 16 + word * 4);
          for (int i = 0; i < 8; ++i) q[word * 8 + i] = packed >> (4 * i) & 15u;
        }
      } else {
        std::memcpy(q, rows[r] + g * kGroup, sizeof(q));
      }
      PackQuants<F>(q, target.quants + g * Format::kGroupBytes, r);
      uint16_t scale;
      std::memcpy(&scale, scales.rows[r] + g * kGroup / scales.group * 2, sizeof(scale));
      StoreF16(target.scales + g * Format::kScaleBytes, r, scale);
    }
  }
}

}  // namespace

void PackTileRows(DType dtype, const std::byte* const rows[], const TileScales& scales,
                  const TileTarget& target) {
  // The tile is zero where rows or inputs do not exist (PackTile), so those have scale 0.
  switch (dtype) {
    case DType::kF32:
      return PackUnits(rows, target, target.cols, 0);
    case DType::kF16:
    case DType::kBF16:
      return PackUnits(rows, target, target.cols / 2, static_cast<size_t>(target.cols % 2) * 2);
    case DType::kF8E4M3:
      return PackF8(rows, scales, target);
    case DType::kI4x8:
      return PackWords<WeightFormat::kU4B>(rows, scales, target);
    case DType::kI8x4:
      return PackWords<WeightFormat::kU8B>(rows, scales, target);
    default:
      for (int r = 0; r < target.rows; ++r) PackRow(dtype, rows[r], r, target);
  }
}

}  // namespace halfmoon::kernels
