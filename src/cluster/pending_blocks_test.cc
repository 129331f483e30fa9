// SPDX-License-Identifier: Apache-2.0
#include "cluster/pending_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace halfmoon::cluster {
namespace {

kv::BlockKey Key(uint64_t number) { return {{.high = number, .low = number * 77}}; }

TEST(PendingBlocks_Find, ContinuesWhatANodeHas) {
  PendingBlocks pending;
  std::vector<kv::BlockKey> keys;
  for (uint64_t i = 0; i < 10; ++i) keys.push_back(Key(i));
  const std::span all(keys);
  std::vector<PrefixRun> local(4);
  local[1].by_tier = {3, 0, 0};
  pending.Add(RequestId{1}, 1, {.order_us = 10}, all.subspan(3, 4));  // 3 to 6, behind 0 to 2
  pending.Add(RequestId{2}, 2, {.order_us = 20}, all.first(5));
  pending.Add(RequestId{3}, 3, {.order_us = 30}, all.subspan(4));  // not from the start
  pending.Find(keys, local, 3);
  EXPECT_EQ(pending.RunOf(0).blocks, 0);
  EXPECT_EQ(pending.RunOf(1).blocks, 7);
  EXPECT_EQ(pending.RunOf(2).blocks, 5);
  EXPECT_EQ(pending.RunOf(3).blocks, 0);
  EXPECT_EQ(pending.RunOf(1).turn.order_us, 10);
  EXPECT_EQ(pending.RunOf(2).turn.order_us, 20);
  // Of two requests with the same blocks, the first one counts, and then the one that is left.
  pending.Add(RequestId{4}, 2, {.order_us = 40}, all.first(5));
  pending.Find(keys, local, 3);
  EXPECT_EQ(pending.RunOf(2).turn.order_us, 20);
  pending.Drop(RequestId{2});
  pending.Find(keys, local, 3);
  EXPECT_EQ(pending.RunOf(2).turn.order_us, 40);
  pending.Start(RequestId{4});
  pending.Find(keys, local, 3);
  EXPECT_EQ(pending.RunOf(2).turn.order_us, INT64_MIN);
  EXPECT_EQ(pending.RunOf(2).blocks, 5);
  for (const uint64_t request : {1, 3, 4, 4}) pending.Drop(RequestId{request});
  pending.Find(keys, local, 3);
  EXPECT_EQ(pending.RunOf(1).blocks, 0);
  EXPECT_EQ(pending.num_blocks(), 0u);
}

// Against the definition: the longest prefix whose blocks a node all has or will have.
TEST(PendingBlocks_AnyChanges, EqualTheirDefinition) {
  std::mt19937_64 random(5);
  constexpr size_t kSlots = 5;
  PendingBlocks pending;
  std::map<uint64_t, std::pair<NodeSlot, std::vector<uint64_t>>> requests;
  for (int step = 0; step < 3000; ++step) {
    if (requests.empty() || (random() % 2 == 0 && requests.size() < 8)) {
      const auto slot = static_cast<NodeSlot>(random() % kSlots);
      std::vector<uint64_t> numbers;
      std::vector<kv::BlockKey> keys;
      for (uint64_t first = random() % 8, i = first; i < first + random() % 6; ++i) {
        numbers.push_back(i);
        keys.push_back(Key(i));
      }
      pending.Add(RequestId{static_cast<uint64_t>(step)}, slot, {.order_us = step}, keys);
      requests[static_cast<uint64_t>(step)] = {slot, numbers};
    } else {
      const auto gone =
          std::next(requests.begin(), static_cast<std::ptrdiff_t>(random() % requests.size()));
      pending.Drop(RequestId{gone->first});
      requests.erase(gone);
    }
    std::vector<kv::BlockKey> keys;
    for (uint64_t i = 0; i < 12; ++i) keys.push_back(Key(i));
    std::vector<PrefixRun> local(kSlots);
    int32_t longest = 0;
    for (PrefixRun& run : local) {
      run.by_tier[0] = static_cast<int32_t>(random() % 6);
      longest = std::max(longest, run.blocks());
    }
    pending.Find(keys, local, longest);
    for (size_t slot = 0; slot < kSlots; ++slot) {
      int32_t expected = 0;
      for (; expected < 12; ++expected) {
        const auto has = [&](const auto& item) {
          return item.second.first == slot &&
                 std::ranges::count(item.second.second, static_cast<uint64_t>(expected)) > 0;
        };
        if (expected >= local[slot].blocks() && std::ranges::none_of(requests, has)) break;
      }
      const int32_t found = pending.RunOf(static_cast<NodeSlot>(slot)).blocks;
      ASSERT_EQ(std::max(found, local[slot].blocks()), expected) << step;
    }
  }
}

}  // namespace
}  // namespace halfmoon::cluster
