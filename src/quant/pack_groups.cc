// SPDX-License-Identifier: Apache-2.0
// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32.
#include "quant/blocks.h"
#include "quant/pack.h"

namespace halfmoon::quant {
namespace {

void UnpackNibbles(const uint8_t (&qs)[16], uint8_t* q) {
  for (int j = 0; j < 16; ++j) {
    q[j] = qs[j] & 0x0F;
    q[j + 16] = qs[j] >> 4;
  }
}

void PackNibbles(const uint8_t* q, uint8_t (&qs)[16]) {
  for (int j = 0; j < 16; ++j) {
    qs[j] = static_cast<uint8_t>((q[j] & 0x0F) | ((q[j + 16] & 0x0F) << 4));
  }
}

void UnpackFifthBits(const uint8_t (&qh)[4], uint8_t* q) {
  for (int j = 0; j < 32; ++j) {
    q[j] |= static_cast<uint8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
  }
}

void PackFifthBits(const uint8_t* q, uint8_t (&qh)[4]) {
  for (uint8_t& byte : qh) byte = 0;
  for (int j = 0; j < 32; ++j) qh[j / 8] |= static_cast<uint8_t>(((q[j] >> 4) & 1) << (j % 8));
}

}  // namespace

void UnpackQ4_0(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ4_0>(block);
  out->d_f16 = b.d;
  UnpackNibbles(b.qs, out->q);
}

void UnpackQ4_1(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ4_1>(block);
  out->d_f16 = b.d;
  out->m_f16 = b.m;
  UnpackNibbles(b.qs, out->q);
}

void UnpackQ5_0(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ5_0>(block);
  out->d_f16 = b.d;
  UnpackNibbles(b.qs, out->q);
  UnpackFifthBits(b.qh, out->q);
}

void UnpackQ5_1(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ5_1>(block);
  out->d_f16 = b.d;
  out->m_f16 = b.m;
  UnpackNibbles(b.qs, out->q);
  UnpackFifthBits(b.qh, out->q);
}

void UnpackQ8_0(const std::byte* block, UnpackedBlock* out) {
  const auto b = LoadBlock<BlockQ8_0>(block);
  out->d_f16 = b.d;
  for (int j = 0; j < 32; ++j) out->q[j] = static_cast<uint8_t>(b.qs[j] + 128);
}

void PackQ4_0(const UnpackedBlock& in, std::byte* block) {
  BlockQ4_0 b;
  b.d = in.d_f16;
  PackNibbles(in.q, b.qs);
  StoreBlock(b, block);
}

void PackQ4_1(const UnpackedBlock& in, std::byte* block) {
  BlockQ4_1 b;
  b.d = in.d_f16;
  b.m = in.m_f16;
  PackNibbles(in.q, b.qs);
  StoreBlock(b, block);
}

void PackQ5_0(const UnpackedBlock& in, std::byte* block) {
  BlockQ5_0 b;
  b.d = in.d_f16;
  PackNibbles(in.q, b.qs);
  PackFifthBits(in.q, b.qh);
  StoreBlock(b, block);
}

void PackQ5_1(const UnpackedBlock& in, std::byte* block) {
  BlockQ5_1 b;
  b.d = in.d_f16;
  b.m = in.m_f16;
  PackNibbles(in.q, b.qs);
  PackFifthBits(in.q, b.qh);
  StoreBlock(b, block);
}

void PackQ8_0(const UnpackedBlock& in, std::byte* block) {
  BlockQ8_0 b;
  b.d = in.d_f16;
  for (int j = 0; j < 32; ++j) b.qs[j] = static_cast<int8_t>(in.q[j] - 128);
  StoreBlock(b, block);
}

}  // namespace halfmoon::quant
