// SPDX-License-Identifier: Apache-2.0
#include "cluster/prefix_directory.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "base/hash.h"

namespace halfmoon::cluster {
namespace {

kv::BlockKey Key(uint64_t number) { return {HashBytes(std::as_bytes(std::span(&number, 1)))}; }
std::vector<kv::BlockKey> Keys(uint64_t first, int count) {
  std::vector<kv::BlockKey> keys;
  for (int i = 0; i < count; ++i) keys.push_back(Key(first + static_cast<uint64_t>(i)));
  return keys;
}

TEST(PrefixDirectory_Find, GivesEachNodeItsLeadingBlocksByTier) {
  PrefixDirectory directory;
  const std::vector<kv::BlockKey> keys = Keys(0, 6);
  for (int i = 0; i < 4; ++i) directory.Add(keys[static_cast<size_t>(i)], 3, Tier::kDram);
  directory.Add(keys[1], 3, Tier::kPages);  // the faster one counts
  directory.Add(keys[0], 70, Tier::kSsd);
  directory.Add(keys[2], 70, Tier::kSsd);  // beyond a gap
  directory.Add(keys[1], 9, Tier::kDram);  // not a prefix
  const auto runs = directory.Find(keys);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].slot, 3);
  EXPECT_EQ(runs[0].by_tier, (std::array<int32_t, 3>{1, 3, 0}));
  EXPECT_EQ(runs[1].slot, 70);
  EXPECT_EQ(runs[1].by_tier, (std::array<int32_t, 3>{0, 0, 1}));
  EXPECT_TRUE(directory.Find({}).empty());
}

TEST(PrefixDirectory_Remove, TakesOneTierOfOneNode) {
  PrefixDirectory directory;
  const std::vector<kv::BlockKey> keys = Keys(0, 1);
  directory.Add(keys[0], 1, Tier::kPages);
  directory.Add(keys[0], 1, Tier::kSsd);
  directory.Remove(keys[0], 1, Tier::kPages);
  directory.Remove(keys[0], 2, Tier::kSsd);
  ASSERT_EQ(directory.Find(keys).size(), 1u);
  EXPECT_EQ(directory.Find(keys)[0].by_tier[2], 1);
  directory.Remove(keys[0], 1, Tier::kSsd);
  EXPECT_TRUE(directory.Find(keys).empty());
  EXPECT_EQ(directory.num_entries(), 0u);
}

TEST(PrefixDirectory_DropNode, HidesItsBlocksAtOnceAndSweepsThemLater) {
  PrefixDirectory directory;
  const std::vector<kv::BlockKey> keys = Keys(0, 200);
  for (const kv::BlockKey& key : keys) {
    for (NodeSlot slot = 0; slot < 3; ++slot) directory.Add(key, slot, Tier::kDram);
  }
  for (NodeSlot slot = 0; slot < 40; ++slot) directory.Add(keys[0], slot, Tier::kPages);
  directory.DropNode(1);
  EXPECT_FALSE(directory.swept());
  for (const PrefixRun& run : directory.Find(keys)) EXPECT_NE(run.slot, 1);
  for (int i = 0; i < 1000 && !directory.swept(); ++i) directory.Sweep();
  ASSERT_TRUE(directory.swept());
  directory.Add(keys[1], 1, Tier::kDram);  // its slot again, for another node
  EXPECT_EQ(directory.Find(keys).size(), 39u);
  EXPECT_EQ(directory.Find(std::span(keys).subspan(1, 1)).size(), 3u);
}

// Against the plainest of models, with few keys so that they collide in all ways: many nodes of a
// key, nodes that leave, tiers that come and go.
TEST(PrefixDirectory_AnyChanges, EqualsAMap) {
  std::mt19937_64 random(7);
  constexpr int kNodes = 150;
  PrefixDirectory directory;
  std::map<uint64_t, std::map<NodeSlot, std::set<int>>> model;
  std::set<NodeSlot> dropped;
  for (uint64_t i = 0; i < 40000; ++i) {
    const auto slot = static_cast<NodeSlot>(random() % kNodes);
    const uint64_t number = random() % 40;
    const auto tier = static_cast<int>(random() % kNumTiers);
    const uint64_t what = random() % 1000;
    if (what < 3) {
      directory.DropNode(slot);
      dropped.insert(slot);
      for (auto& [key, nodes] : model) nodes.erase(slot);
    } else if (what < 40) {
      directory.Sweep();
      if (directory.swept()) dropped.clear();
    } else if (what < 500 + (i / 10000 % 2) * 300) {
      if (dropped.contains(slot)) continue;
      directory.Add(Key(number), slot, static_cast<Tier>(tier));
      model[number][slot].insert(tier);
    } else {
      directory.Remove(Key(number), slot, static_cast<Tier>(tier));
      auto& tiers = model[number][slot];
      tiers.erase(tier);
      if (tiers.empty()) model[number].erase(slot);
    }
    if (i % 20 != 0) continue;
    const uint64_t first = random() % 40;
    const std::vector<kv::BlockKey> keys = Keys(first, 5);
    std::map<NodeSlot, std::array<int32_t, kNumTiers>> expected;
    for (NodeSlot node = 0; node < kNodes; ++node) {
      for (uint64_t k = first; k < first + 5; ++k) {
        const auto found = model[k].find(node);
        if (found == model[k].end()) break;
        ++expected[node][static_cast<size_t>(*found->second.begin())];
      }
    }
    std::map<NodeSlot, std::array<int32_t, kNumTiers>> got;
    for (const PrefixRun& run : directory.Find(keys)) got[run.slot] = run.by_tier;
    ASSERT_EQ(got, expected) << "after change " << i;
  }
  EXPECT_GT(directory.num_shared(), 0u);
}

TEST(PrefixDirectory_Memory, IsAboutElevenBytesABlock) {
  PrefixDirectory directory;
  constexpr uint64_t kBlocks = 3'000'000;
  for (uint64_t i = 0; i < kBlocks; ++i) {
    directory.Add(Key(i), static_cast<NodeSlot>(i % 1000), Tier::kDram);
  }
  EXPECT_EQ(directory.num_entries(), kBlocks);
  EXPECT_LT(static_cast<double>(directory.memory_bytes()) / kBlocks, 13.5);
}

}  // namespace
}  // namespace halfmoon::cluster
