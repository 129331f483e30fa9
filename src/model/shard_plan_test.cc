// SPDX-License-Identifier: Apache-2.0
#include "model/shard_plan.h"

#include <gtest/gtest.h>

namespace halfmoon::model {
namespace {

ThreadLayout Layout(const std::vector<int>& threads) {
  ThreadLayout layout;
  for (const int count : threads) {
    layout.seats.resize(layout.seats.size() + static_cast<size_t>(count),
                        {.shard = layout.shards.size()});
    layout.shards.push_back({.node = static_cast<int>(layout.shards.size()), .num_threads = count});
  }
  return layout;
}

TEST(PlanShards, OneShard_HoldsEverything) {
  const std::vector<StoredMatrix> matrices = {{.rows = 100, .size_bytes = 1000},
                                              {.rows = 7, .size_bytes = 50, .expert = true}};
  const std::vector<ShardPart> parts = PlanShards(Layout({4}), matrices);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].dense_bytes, 1000u);
  EXPECT_EQ(parts[0].expert_bytes, 50u);
  EXPECT_EQ(parts[0].num_threads, 4);
}

TEST(PlanShards, UnevenNodes_InProportionToThreadsAndNothingTwice) {
  std::vector<StoredMatrix> matrices;
  for (int i = 0; i < 100; ++i) {
    matrices.push_back({.rows = 768, .size_bytes = 1'000'003, .expert = true});
    matrices.push_back({.rows = 2048, .size_bytes = 2'000'001});
  }
  const std::vector<ShardPart> parts = PlanShards(Layout({1, 3, 4}), matrices);
  ASSERT_EQ(parts.size(), 3u);
  size_t dense = 0;
  size_t experts = 0;
  for (const ShardPart& part : parts) {
    dense += part.dense_bytes;
    experts += part.expert_bytes;
    EXPECT_NEAR(static_cast<double>(part.dense_bytes), 2.0e8 * part.num_threads / 8, 2e6);
    EXPECT_NEAR(static_cast<double>(part.expert_bytes), 1.0e8 * part.num_threads / 8, 2e6);
  }
  EXPECT_EQ(dense, 200'000'100u);
  EXPECT_EQ(experts, 100'000'300u);
}

TEST(PlanShards, FewerTilesThanShards_SomeHoldNothing) {
  const std::vector<StoredMatrix> matrices = {{.rows = 16, .size_bytes = 640}, {.rows = 0}};
  const std::vector<ShardPart> parts = PlanShards(Layout({1, 1}), matrices);
  EXPECT_EQ(parts[0].dense_bytes + parts[1].dense_bytes, 640u);
  EXPECT_TRUE(parts[0].dense_bytes == 0 || parts[1].dense_bytes == 0);
}

}  // namespace
}  // namespace halfmoon::model
