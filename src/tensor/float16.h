// SPDX-License-Identifier: Apache-2.0
// Scalar conversions between float32 and the narrow float formats, as raw bits. Exact where the
// target can hold the value, else rounded to nearest, ties to even; infinities stay, a NaN stays a
// NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace halfmoon::tensor {

/// float32 of IEEE binary16 bits; every value is exact.
constexpr float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 127 - 15) << 23) | (mantissa << 13));
  }
  // Subnormal: mantissa * 2^-24, which float32 holds as a normal number.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

/// Nearest binary16 bits; 65520 and above become infinity.
constexpr uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {  // NaN: keep the top of its payload and make it quiet.
    return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x1FFu));
  }
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {
    // Below the smallest normal binary16: count units of 2^-24. Adding 0.5 puts those units at the
    // bottom of the float32 mantissa, so the addition itself rounds to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude + 0xFFFu + odd - ((127u - 15u) << 23)) >> 13));
}

/// float32 of bfloat16 bits; every value is exact.
constexpr float BF16ToF32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Nearest bfloat16 bits.
constexpr uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// float32 of float8 E4M3 (finite-only: no infinities, NaN where all bits but the sign are set);
/// every value is exact.
constexpr float F8E4M3ToF32(uint8_t bits) {
  if ((bits & 0x7Fu) == 0x7Fu) return std::bit_cast<float>(0x7FC00000u);
  // Its exponent and mantissa as those of a binary16 number with 8 less in the exponent.
  const auto half = static_cast<uint16_t>((bits & 0x80u) << 8 | (bits & 0x7Fu) << 7);
  return F16ToF32(half) * 256.0f;
}

/// float32 of float8 E8M0, a bare exponent: 2^(bits - 127); NaN where all bits are set.
constexpr float F8E8M0ToF32(uint8_t bits) {
  if (bits == 0xFFu) return std::bit_cast<float>(0x7FC00000u);
  return std::bit_cast<float>(bits == 0 ? 0x00400000u : uint32_t{bits} << 23);
}

}  // namespace halfmoon::tensor
