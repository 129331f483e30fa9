// SPDX-License-Identifier: Apache-2.0
#include "engine/row_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace halfmoon::engine {
namespace {

TEST(FindMax, SizesAroundBlocksAndLanes_LowestIndexOfLargest) {
  std::mt19937 random(1);
  for (size_t size : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 5000u}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<float> row(size);
      for (float& x : row) x = static_cast<float>(random() % 50) - 60;  // many equals
      const RowMax max = FindMax(row);
      const auto expected = std::max_element(row.begin(), row.end());
      ASSERT_EQ(max.value, *expected);
      ASSERT_EQ(max.index, expected - row.begin());
      ASSERT_EQ(max.not_a_number, -1);
    }
  }
}

TEST(FindMax, NanAnywhere_IsReported) {
  for (size_t size : {1u, 17u, 1025u, 3000u}) {
    for (size_t at : {size_t{0}, size / 2, size - 1}) {
      std::vector<float> row(size, 1.0f);
      row[at] = std::nanf("");
      EXPECT_EQ(FindMax(row).not_a_number, static_cast<int32_t>(at));
    }
  }
}

TEST(FindMax, AllMinusInfinity_FirstOfThem) {
  const std::vector<float> row(20, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(FindMax(row).index, 0);
  EXPECT_EQ(FindMax(row).not_a_number, -1);
}

TEST(DescribeToken, SmallRow_LogSoftmaxAndBest) {
  const std::vector<float> row = {1, 3, 2, 3, -1};
  double sum = 0;
  for (float x : row) sum += std::exp(x);
  const TokenEvent event = DescribeToken(row, 2, 3);
  EXPECT_EQ(event.id, 2);
  EXPECT_FLOAT_EQ(event.logprob, static_cast<float>(2 - std::log(sum)));
  ASSERT_EQ(event.top.size(), 3u);
  EXPECT_EQ(event.top[0].id, 1);  // equal to 3, lower id first
  EXPECT_EQ(event.top[1].id, 3);
  EXPECT_EQ(event.top[2].id, 2);
  EXPECT_FLOAT_EQ(event.top[0].logprob, static_cast<float>(3 - std::log(sum)));
  EXPECT_TRUE(DescribeToken(row, 2, 0).top.empty());
  EXPECT_EQ(DescribeToken(row, 2, 20).top.size(), row.size());
}

TEST(DescribeToken, HugeLogits_NoOverflow) {
  const std::vector<float> row = {1e4f, 1e4f, -1e4f};
  EXPECT_NEAR(DescribeToken(row, 0, 0).logprob, -std::log(2.0), 1e-6);
  EXPECT_NEAR(DescribeToken(row, 2, 0).logprob, -2e4 - std::log(2.0), 0.01);
}

}  // namespace
}  // namespace halfmoon::engine
