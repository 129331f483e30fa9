// SPDX-License-Identifier: Apache-2.0
// Formats that are read and never written: Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0.
#include "quant/blocks.h"
#include "quant/pack.h"

namespace halfmoon::quant {
namespace {

/// 256 values of two bits: quarter c of half h lies in bits 2c of 32 bytes.
void UnpackPairsOfBits(const uint8_t (&qs)[64], uint8_t* q) {
  for (int i = 0; i < 256; ++i) q[i] = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

/// 32 values that the nibbles of 16 bytes look up in `table`, with `zero` added.
void LookUpNibbles(const uint8_t* qs, const int8_t (&table)[16], int zero, uint8_t* q) {
  for (int j = 0; j < 16; ++j) {
    q[j] = static_cast<uint8_t>(table[qs[j] & 0x0F] + zero);
    q[j + 16] = static_cast<uint8_t>(table[qs[j] >> 4] + zero);
  }
}

/// `digits` digits of base 3 of each of `count` bytes, digit by digit.
uint8_t* UnpackDigits(const uint8_t* bytes, int count, int digits, uint8_t* q) {
  constexpr uint8_t kPowers[] = {1, 3, 9, 27, 81};
  for (int digit = 0; digit < digits; ++digit) {
    for (int j = 0; j < count; ++j) {
      const auto rest = static_cast<uint8_t>(bytes[j] * kPowers[digit]);
      *q++ = static_cast<uint8_t>(rest * 3 >> 8);
    }
  }
  return q;
}

}  // namespace

void UnpackQ2_K(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ2_K>(block);
  out->d_f16 = b.d;
  out->m_f16 = b.dmin;
  for (int g = 0; g < 16; ++g) {
    out->sc[g] = b.scales[g] & 0x0F;
    out->mn[g] = b.scales[g] >> 4;
  }
  UnpackPairsOfBits(b.qs, out->q);
}

void UnpackQ3_K(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ3_K>(block);
  out->d_f16 = b.d;
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? b.scales[g] & 0x0F : b.scales[g - 8] >> 4;
    const int high = b.scales[8 + g % 4] >> (g / 4 * 2) & 3;
    out->sc[g] = static_cast<uint8_t>(static_cast<int8_t>((low | high << 4) - 32));
  }
  UnpackPairsOfBits(b.qs, out->q);
  for (int i = 0; i < 256; ++i) {
    out->q[i] |= static_cast<uint8_t>((b.hmask[i % 32] >> (i / 32) & 1) << 2);
  }
}

void UnpackIQ4_NL(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockIQ4_NL>(block);
  out->d_f16 = b.d;
  LookUpNibbles(b.qs, kIQ4Values, 128, out->q);
}

void UnpackIQ4_XS(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockIQ4_XS>(block);
  out->d_f16 = b.d;
  for (int g = 0; g < 8; ++g) {
    const int low = b.scales_l[g / 2] >> (g % 2 * 4) & 0x0F;
    const int high = b.scales_h >> (2 * g) & 3;
    out->sc[g] = static_cast<uint8_t>(static_cast<int8_t>((low | high << 4) - 32));
    LookUpNibbles(b.qs + 16 * g, kIQ4Values, 128, out->q + 32 * g);
  }
}

void UnpackMXFP4(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockMXFP4>(block);
  out->sc[0] = b.e;
  LookUpNibbles(b.qs, kMXFP4Values, 12, out->q);
}

void UnpackTQ1_0(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockTQ1_0>(block);
  out->d_f16 = b.d;
  uint8_t* q = UnpackDigits(b.qs, 32, 5, out->q);
  q = UnpackDigits(b.qs + 32, 16, 5, q);
  UnpackDigits(b.qh, 4, 4, q);
}

void UnpackTQ2_0(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockTQ2_0>(block);
  out->d_f16 = b.d;
  UnpackPairsOfBits(b.qs, out->q);
}

}  // namespace halfmoon::quant
