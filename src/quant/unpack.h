// SPDX-License-Identifier: Apache-2.0
// The inside of a quantised block as plain integers and scales, without loss: what packers of
// kernel formats read. They need no knowledge of any file's bit order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace halfmoon::quant {

/// How a value w comes from an unsigned integer q, with `zero` from QuantTraits.
enum class ScaleKind {
  kD,        ///< w = d * (q - zero)
  kDM,       ///< w = d * q + m
  kSuperDM,  ///< w = (d * sc[g]) * q - (dmin * mn[g]), g = group of 32 (Q4_K, Q5_K) or 16 (Q2_K);
             ///< sc and mn unsigned 6 bits
  kSuperD,   ///< w = (d * sc[g]) * (q - zero), g = group of 16 (Q6_K, Q3_K) or 32 (IQ4_XS); sc
             ///< signed 8 bits
  kPower,    ///< w = d * (q - zero), d = 2^(sc[0] - 128) (MXFP4)
};

/// Constants of a quantised type.
struct QuantTraits {
  int bits;   ///< Bits of q: 2 to 8.
  int group;  ///< Elements that share one effective scale: 16, 32 or 256.
  int super;  ///< Elements of a block, which share d: 32 or 256.
  ScaleKind kind;
  int zero;  ///< The q that means nothing is added: 8, 16, 32, 128 (Q8_0 and the IQ4 types keep
             ///< their value + 128), 12 (MXFP4, twice the value + 12), or 0.
};

/// nullptr for plain types.
const QuantTraits* TraitsOf(tensor::DType dtype);

/// One block of `traits.super` elements. Fields that a type lacks are zero.
struct UnpackedBlock {
  uint8_t q[256];  ///< Unsigned integers in element order; the first `super` are set.
  uint16_t d_f16;  ///< Raw float16 bits of d.
  uint16_t m_f16;  ///< Raw float16 bits of m (kDM) or dmin (kSuperDM).
  uint8_t sc[16];  ///< Group scales; those of kSuperD are int8_t in disguise.
  uint8_t mn[16];  ///< Group minima of kSuperDM.
};

/// Unpacks the block at `block` (tensor::Info(dtype).block_bytes bytes, any alignment).
/// Requires TraitsOf(dtype) != nullptr.
void UnpackBlock(tensor::DType dtype, const std::byte* block, UnpackedBlock* out);

/// The d of kPower: exact, subnormal for codes below 2.
float PowerScale(uint8_t code);

}  // namespace halfmoon::quant
