// SPDX-License-Identifier: Apache-2.0
// Q4_K, Q5_K, Q6_K: superblocks of 256.
#include <cstring>

#include "quant/blocks.h"
#include "quant/pack.h"

namespace halfmoon::quant {
namespace {

// Scales and minima 0..3 are the low 6 bits of bytes 0..3 and 4..7. Those of 4..7 have their low 4
// bits in bytes 8..11 (scale in the low nibble, minimum in the high) and their upper 2 in the top
// bits of bytes 0..3 and 4..7.
void UnpackScales(const uint8_t (&scales)[12], uint8_t* sc, uint8_t* mn) {
  for (int j = 0; j < 4; ++j) {
    sc[j] = scales[j] & 63;
    mn[j] = scales[j + 4] & 63;
    sc[j + 4] = static_cast<uint8_t>((scales[j + 8] & 0x0F) | ((scales[j] >> 6) << 4));
    mn[j + 4] = static_cast<uint8_t>((scales[j + 8] >> 4) | ((scales[j + 4] >> 6) << 4));
  }
}

void PackScales(const uint8_t* sc, const uint8_t* mn, uint8_t (&scales)[12]) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = static_cast<uint8_t>((sc[j] & 63) | ((sc[j + 4] >> 4) << 6));
    scales[j + 4] = static_cast<uint8_t>((mn[j] & 63) | ((mn[j + 4] >> 4) << 6));
    scales[j + 8] = static_cast<uint8_t>((sc[j + 4] & 0x0F) | ((mn[j + 4] & 0x0F) << 4));
  }
}

void UnpackNibblePairs(const uint8_t (&qs)[128], uint8_t* q) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int j = 0; j < 32; ++j) {
      q[pair * 64 + j] = qs[pair * 32 + j] & 0x0F;
      q[pair * 64 + 32 + j] = qs[pair * 32 + j] >> 4;
    }
  }
}

void PackNibblePairs(const uint8_t* q, uint8_t (&qs)[128]) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int j = 0; j < 32; ++j) {
      qs[pair * 32 + j] =
          static_cast<uint8_t>((q[pair * 64 + j] & 0x0F) | ((q[pair * 64 + 32 + j] & 0x0F) << 4));
    }
  }
}

}  // namespace

void UnpackQ4_K(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ4_K>(block);
  out->d_f16 = b.d;
  out->m_f16 = b.dmin;
  UnpackScales(b.scales, out->sc, out->mn);
  UnpackNibblePairs(b.qs, out->q);
}

void UnpackQ5_K(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ5_K>(block);
  out->d_f16 = b.d;
  out->m_f16 = b.dmin;
  UnpackScales(b.scales, out->sc, out->mn);
  UnpackNibblePairs(b.qs, out->q);
  for (int group = 0; group < 8; ++group) {
    for (int j = 0; j < 32; ++j) {
      out->q[group * 32 + j] |= static_cast<uint8_t>(((b.qh[j] >> group) & 1) << 4);
    }
  }
}

void UnpackQ6_K(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ6_K>(block);
  out->d_f16 = b.d;
  std::memcpy(out->sc, b.scales, sizeof(b.scales));
  for (int half = 0; half < 2; ++half) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int j = 0; j < 32; ++j) {
        const uint8_t low =
            b.ql[half * 64 + (quarter % 2) * 32 + j] >> (quarter < 2 ? 0 : 4) & 0x0F;
        const uint8_t high = b.qh[half * 32 + j] >> (2 * quarter) & 3;
        out->q[half * 128 + quarter * 32 + j] = static_cast<uint8_t>(low | (high << 4));
      }
    }
  }
}

void PackQ4_K(const UnpackedBlock& in, std::byte* block) {
  BlockQ4_K b;
  b.d = in.d_f16;
  b.dmin = in.m_f16;
  PackScales(in.sc, in.mn, b.scales);
  PackNibblePairs(in.q, b.qs);
  StoreBlock(b, block);
}

void PackQ5_K(const UnpackedBlock& in, std::byte* block) {
  BlockQ5_K b;
  b.d = in.d_f16;
  b.dmin = in.m_f16;
  PackScales(in.sc, in.mn, b.scales);
  PackNibblePairs(in.q, b.qs);
  for (int j = 0; j < 32; ++j) {
    b.qh[j] = 0;
    for (int group = 0; group < 8; ++group) {
      b.qh[j] |= static_cast<uint8_t>(((in.q[group * 32 + j] >> 4) & 1) << group);
    }
  }
  StoreBlock(b, block);
}

void PackQ6_K(const UnpackedBlock& in, std::byte* block) {
  BlockQ6_K b = {};
  b.d = in.d_f16;
  std::memcpy(b.scales, in.sc, sizeof(b.scales));
  for (int half = 0; half < 2; ++half) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int j = 0; j < 32; ++j) {
        const uint8_t q = in.q[half * 128 + quarter * 32 + j];
        b.ql[half * 64 + (quarter % 2) * 32 + j] |=
            static_cast<uint8_t>((q & 0x0F) << (quarter < 2 ? 0 : 4));
        b.qh[half * 32 + j] |= static_cast<uint8_t>(((q >> 4) & 3) << (2 * quarter));
      }
    }
  }
  StoreBlock(b, block);
}

}  // namespace halfmoon::quant
