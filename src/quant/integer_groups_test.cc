// SPDX-License-Identifier: Apache-2.0
#include "quant/integer_groups.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tensor/float16.h"

namespace halfmoon::quant {
namespace {

struct Encoded {
  std::vector<uint32_t> words;
  std::vector<uint16_t> scales;
  std::vector<float> decoded;
};

Encoded Encode(int bits, const std::vector<float>& x) {
  Encoded out{.words = std::vector<uint32_t>(x.size() * static_cast<size_t>(bits) / 32),
              .scales = std::vector<uint16_t>(x.size() / 32),
              .decoded = std::vector<float>(x.size())};
  EncodeIntegerGroups(bits, 32, x, out.words, out.scales, out.decoded);
  return out;
}

TEST(EncodeIntegerGroups, GaussianRow_ErrorWithinTable) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> x(1 << 16);
  for (float& value : x) value = normal(random);
  struct Row {
    int bits;
    double measured;
  };
  for (const Row& row : {Row{4, 0.0862}, Row{8, 0.00505}}) {
    const Encoded encoded = Encode(row.bits, x);
    double error = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += std::pow(static_cast<double>(encoded.decoded[i]) - x[i], 2);
      norm += std::pow(static_cast<double>(x[i]), 2);
    }
    EXPECT_NEAR(std::sqrt(error / norm), row.measured, 0.03 * row.measured) << row.bits;
  }
}

TEST(EncodeIntegerGroups, Words_HoldWhatDecodedSays) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> x(256);
  for (float& value : x) value = normal(random);
  for (const int bits : {4, 8}) {
    const Encoded encoded = Encode(bits, x);
    const int per_word = 32 / bits;
    for (size_t i = 0; i < x.size(); ++i) {
      const auto at = static_cast<int>(i) % per_word * bits;
      const uint32_t stored =
          encoded.words[i / static_cast<size_t>(per_word)] >> at & ((1u << bits) - 1u);
      const float scale = tensor::BF16ToF32(encoded.scales[i / 32]);
      EXPECT_GE(scale, 0.0f);
      EXPECT_EQ(static_cast<float>(static_cast<int>(stored) - (1 << (bits - 1))) * scale,
                encoded.decoded[i]);
    }
  }
}

TEST(EncodeIntegerGroups, ValuesOnTheGrid_AreExact) {
  std::vector<float> x(64, 0.0f);
  for (size_t i = 0; i < 32; ++i) x[i] = 0.5f * (static_cast<float>(i % 16) - 8.0f);
  EXPECT_EQ(Encode(4, x).decoded, x);
  for (size_t i = 0; i < 32; ++i) x[i] = 0.25f * (static_cast<float>(i * 8) - 128.0f);
  EXPECT_EQ(Encode(8, x).decoded, x);
}

TEST(EncodeIntegerGroups, ExtremeValues_StayInBounds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float odd : {kInfinity, -kInfinity, std::nanf(""), 3e38f, -3e38f, 1e-44f}) {
    std::vector<float> x(32, 0.5f);
    x[7] = odd;
    for (const int bits : {4, 8})
      EXPECT_EQ(Encode(bits, x).words.size(), static_cast<size_t>(bits));
  }
}

}  // namespace
}  // namespace halfmoon::quant
