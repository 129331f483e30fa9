// SPDX-License-Identifier: Apache-2.0
#include "kernels/exp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace halfmoon::kernels {
namespace {

TEST(Exp, FloatsOfItsRange_WithinErrorBound) {
  double worst = 0;
  // Every 61st float: no stride that follows the structure of the mantissa.
  for (const float sign : {-1.0f, 1.0f}) {
    for (uint32_t bits = std::bit_cast<uint32_t>(1e-9f); bits < std::bit_cast<uint32_t>(88.72f);
         bits += 61) {
      const float x = sign * std::bit_cast<float>(bits);
      if (x < kExpMin) break;
      const double expected = std::exp(static_cast<double>(x));
      const auto nearest = static_cast<float>(expected);
      const double ulp =
          static_cast<double>(std::nextafter(nearest, INFINITY)) - static_cast<double>(nearest);
      worst = std::max(worst, std::abs(static_cast<double>(Exp(x)) - expected) / ulp);
    }
  }
  EXPECT_LT(worst, 1.1);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Exp, EdgesOfItsRange_DefinedValues) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float x : {-kInfinity, -3e38f, -1e30f, -1e9f, -1000.0f, -87.0f})
    EXPECT_EQ(Exp(x), 0.0f) << x;
  for (const float x : {kInfinity, 3e38f, 1e9f, 100.0f, 88.8f}) EXPECT_EQ(Exp(x), kInfinity) << x;
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_TRUE(std::isnan(Exp(std::nanf(""))));
  EXPECT_TRUE(std::isfinite(Exp(88.72f)));
}

}  // namespace
}  // namespace halfmoon::kernels
