// SPDX-License-Identifier: Apache-2.0
// The exponential of every kernel: one sequence of float32 operations, scalar here and vectorised
// in cpu/exp_impl.h, so that all ISAs agree bit for bit.
//
// With n = round(x / ln 2) and r = x - n ln 2: e^x = 2^n (1 + r + r² Q(r)), Q of degree 4
// interpolating (e^r - 1 - r) / r² at the Chebyshev nodes of |r| <= ln 2 / 2. Error below 1.1
// ulp (exp_test.cc walks the floats of its range).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace halfmoon::kernels {

inline constexpr float kExpMin = -86.5f;  ///< Exp is exactly 0 below: no subnormal results
inline constexpr float kExpMax = 89.0f;   ///< Exp is infinite from here on; keeps n within 8 bits
inline constexpr float kExpLog2e = 0x1.715476p+0f;
inline constexpr float kExpLn2High = 0x1.62e430p-1f;
inline constexpr float kExpLn2Low = -0x1.05c610p-29f;
/// Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits.
inline constexpr float kExpRounder = 12582912.0f;
inline constexpr float kExpQ[5] = {0x1.000000p-1f, 0x1.5554dcp-3f, 0x1.555518p-5f, 0x1.120c62p-7f,
                                   0x1.6d11fep-10f};

/// e^x. Exactly 0 for x < -86.5, infinite above 88.73, NaN for NaN; defined for every x.
inline float Exp(float x) {
  const float clamped = kExpMax < x ? kExpMax : x;
  const float rounded = std::fma(clamped, kExpLog2e, kExpRounder);
  const float n = rounded - kExpRounder;
  const float r = std::fma(n, -kExpLn2Low, std::fma(n, -kExpLn2High, clamped));
  float q = kExpQ[4];
  q = std::fma(q, r, kExpQ[3]);
  q = std::fma(q, r, kExpQ[2]);
  q = std::fma(q, r, kExpQ[1]);
  q = std::fma(q, r, kExpQ[0]);
  const float p = std::fma(r * r, q, r) + 1.0f;
  // 2^(n-1) first, then 2: 2^128 itself has no float. Unsigned arithmetic wraps for the huge
  // negative x whose result the last line replaces.
  const uint32_t exponent =
      std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(kExpRounder) + 126u;
  const float result = p * std::bit_cast<float>(exponent << 23) * 2.0f;
  return x < kExpMin ? 0.0f : result;
}

}  // namespace halfmoon::kernels
