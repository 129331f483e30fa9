// SPDX-License-Identifier: Apache-2.0
#include "tensor/float16.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace halfmoon::tensor {
namespace {

static_assert(F32ToF16(1.0f) == 0x3C00 && F16ToF32(0xC000) == -2.0f);
static_assert(F32ToBF16(1.0f) == 0x3F80 && BF16ToF32(0xC000) == -2.0f);

/// Value of binary16 bits by definition.
double F16ByDefinition(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// Nearest binary16 of |x| by search, ties to even: the oracle.
uint16_t NearestF16(float x) {
  const double magnitude = std::abs(static_cast<double>(x));
  uint16_t low = 0;
  uint16_t high = 0x7C00;  // Infinity stands for 2^16 when distances are compared.
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (F16ByDefinition(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - F16ByDefinition(low);
  const double above = (high == 0x7C00 ? 65536.0 : F16ByDefinition(high)) - magnitude;
  const uint16_t nearest = below < above || (below == above && low % 2 == 0) ? low : high;
  return static_cast<uint16_t>(nearest | (std::signbit(x) ? 0x8000 : 0));
}

TEST(F16, EveryPattern_ConvertsThereAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = F16ToF32(half);
    if ((half & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_GT(F32ToF16(value) & 0x7FFF, 0x7C00);
      continue;
    }
    if ((half & 0x7FFF) == 0x7C00) {
      EXPECT_TRUE(std::isinf(value));
    } else {
      EXPECT_EQ(static_cast<double>(value), F16ByDefinition(half));
    }
    EXPECT_EQ(F32ToF16(value), half);
  }
}

TEST(F16, RandomFloats_RoundToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 200'000; ++i) {
    // Exponents around binary16's range, subnormals included.
    const auto exponent = static_cast<uint32_t>(100 + random() % 45);
    const auto bits = static_cast<uint32_t>(random());
    const float x = std::bit_cast<float>((bits & 0x807FFFFFu) | (exponent << 23));
    ASSERT_EQ(F32ToF16(x), NearestF16(x)) << x;
  }
}

TEST(F16, Midpoints_RoundToEven) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const auto middle = static_cast<float>(
        (F16ByDefinition(half) + F16ByDefinition(static_cast<uint16_t>(half + 1))) / 2);
    const auto even = static_cast<uint16_t>(half + half % 2);
    EXPECT_EQ(F32ToF16(middle), even);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), half);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 1e9f)), half + 1);
  }
}

TEST(F16, OutOfRange_BecomesInfinityOrZero) {
  EXPECT_EQ(F32ToF16(65519.99f), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7C00);
  EXPECT_EQ(F32ToF16(-1e30f), 0xFC00);
  EXPECT_EQ(F32ToF16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(F32ToF16(-0.0f), 0x8000);
}

TEST(BF16, EveryPattern_ConvertsThereAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = BF16ToF32(half);
    if (std::isnan(value)) {
      EXPECT_GT(F32ToBF16(value) & 0x7FFF, 0x7F80);
    } else {
      EXPECT_EQ(F32ToBF16(value), half);
    }
  }
}

TEST(BF16, BetweenTwoValues_RoundsToNearestEven) {
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808000u)), 0x3F80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F818000u)), 0x3F82);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808001u)), 0x3F81);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F807FFFu)), 0x3F80);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x7F800001u)), 0x7FC0);
}

}  // namespace
}  // namespace halfmoon::tensor
