// SPDX-License-Identifier: Apache-2.0
#include "kv/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace halfmoon::kv {
namespace {

constexpr int32_t kBlock = 2;

std::vector<BlockKey> Keys(const BlockKey& seed, std::span<const int32_t> tokens) {
  std::vector<BlockKey> keys;
  for (size_t i = 0; i + kBlock <= tokens.size(); i += kBlock) {
    keys.push_back(NextKey(keys.empty() ? seed : keys.back(), tokens.subspan(i, kBlock)));
  }
  return keys;
}

class PrefixIndexTest : public ::testing::Test {
 protected:
  // Takes pages for all blocks of `tokens` and publishes them, as one that computes them would.
  std::vector<PageRef> Put(const std::vector<int32_t>& tokens) {
    const std::vector<BlockKey> keys = Keys(seed_, tokens);
    std::vector<PageRef> pages;
    for (size_t i = 0; i < keys.size(); ++i) {
      PageRef page = *index_.Allocate();
      std::optional<PageRef> stands =
          index_.Insert(seed_, i == 0 ? seed_ : keys[i - 1], keys[i],
                        std::span(tokens).subspan(i * kBlock, kBlock), &page);
      EXPECT_TRUE(stands.has_value());
      pages.push_back(std::move(*stands));
    }
    return pages;
  }
  PrefixHit Probe(const std::vector<int32_t>& tokens) const {
    return index_.Probe(seed_, Keys(seed_, tokens), tokens);
  }
  std::vector<PageRef> Match(const std::vector<int32_t>& tokens) {
    return index_.Match(seed_, Keys(seed_, tokens), tokens);
  }

  const BlockKey seed_ = SeedKey({.model_fingerprint = "m", .block_size = kBlock});
  PagePool pool_{4};
  PrefixIndex index_{&pool_, {.block_size = kBlock, .track_changes = true}};
};

TEST_F(PrefixIndexTest, Match_CommonPrefix_HoldsItsPages) {
  std::vector<PageRef> pages = Put({1, 2, 3, 4, 5, 6});
  std::vector<PageRef> hit = Match({1, 2, 3, 4, 9, 9});
  ASSERT_EQ(hit.size(), 2u);
  EXPECT_EQ(hit[0].page(), pages[0].page());
  EXPECT_EQ(hit[1].page(), pages[1].page());
  EXPECT_EQ(pool_.num_holders(pages[0].page()), 2);
  EXPECT_TRUE(Match({2, 1, 3, 4}).empty());
  // Equal tokens after another prefix are another block.
  EXPECT_TRUE(Match({3, 4}).empty());
}

TEST_F(PrefixIndexTest, Probe_PagesLetGo_CountedAsCached) {
  std::vector<PageRef> pages = Put({1, 2, 3, 4});
  EXPECT_EQ(Probe({1, 2, 3, 4}).cached_pages, 0);
  pages.pop_back();
  EXPECT_EQ(Probe({1, 2, 3, 4}).blocks, 2);
  EXPECT_EQ(Probe({1, 2, 3, 4}).cached_pages, 1);
}

TEST_F(PrefixIndexTest, Insert_SameBlockTwice_FirstPageWins) {
  std::vector<PageRef> first = Put({1, 2});
  std::vector<PageRef> second = Put({1, 2});
  EXPECT_EQ(second[0].page(), first[0].page());
  EXPECT_EQ(pool_.num_in_use(), 1);
  EXPECT_EQ(pool_.num_free(), 3);
}

TEST_F(PrefixIndexTest, Insert_KeyOfOtherTokens_RefusedAndPageKept) {
  std::vector<PageRef> pages = Put({1, 2});
  const std::vector<int32_t> other = {7, 8};
  const BlockKey collision = Keys(seed_, std::vector<int32_t>{1, 2})[0];
  PageRef page = *index_.Allocate();
  EXPECT_FALSE(index_.Insert(seed_, seed_, collision, other, &page).has_value());
  EXPECT_TRUE(page.held());
  EXPECT_TRUE(index_.Match(seed_, std::vector{collision}, other).empty());
}

TEST_F(PrefixIndexTest, Insert_ParentUnknown_Refused) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const std::vector<BlockKey> keys = Keys(seed_, tokens);
  PageRef page = *index_.Allocate();
  EXPECT_FALSE(
      index_.Insert(seed_, keys[0], keys[1], std::span(tokens).subspan(2), &page).has_value());
  EXPECT_TRUE(page.held());
}

TEST_F(PrefixIndexTest, Changes_TellOfEveryBlockThatComesAndGoes) {
  Put({1, 2, 3, 4}).clear();
  Put({1, 2}).clear();  // there already
  const std::vector<BlockKey> keys = Keys(seed_, std::vector<int32_t>{1, 2, 3, 4});
  ASSERT_EQ(index_.changes().size(), 2u);
  EXPECT_TRUE(index_.changes()[0].added && index_.changes()[1].added);
  EXPECT_EQ(index_.changes()[0].key, keys[0]);
  EXPECT_EQ(index_.changes()[1].key, keys[1]);
  index_.ForgetChanges();
  std::vector<PageRef> taken;
  for (int i = 0; i < 3; ++i) taken.push_back(*index_.Allocate());
  ASSERT_EQ(index_.changes().size(), 1u);
  EXPECT_FALSE(index_.changes()[0].added);
  EXPECT_EQ(index_.num_blocks(), 1);
}

TEST_F(PrefixIndexTest, Match_OtherSeed_FindsNothing) {
  std::vector<PageRef> pages = Put({1, 2});
  const BlockKey other =
      SeedKey({.model_fingerprint = "m", .block_size = kBlock, .tenant_salt = "x"});
  const std::vector<int32_t> tokens = {1, 2};
  EXPECT_TRUE(index_.Match(other, Keys(other, tokens), tokens).empty());
  // Not even with the key of the block itself.
  EXPECT_TRUE(index_.Match(other, Keys(seed_, tokens), tokens).empty());
}

TEST_F(PrefixIndexTest, Allocate_PagesFull_EvictsLongestUnused) {
  for (int32_t first : {1, 2, 3, 4}) {
    std::vector<PageRef> pages = Put({first, 0});
  }
  ASSERT_EQ(pool_.num_cached(), 4);
  Match({1, 0}).clear();  // used again
  PageRef page = *index_.Allocate();
  EXPECT_EQ(Probe({2, 0}).blocks, 0);
  EXPECT_EQ(Probe({1, 0}).blocks, 1);
  EXPECT_EQ(pool_.num_cached(), 3);
}

TEST_F(PrefixIndexTest, Allocate_ParentUnusedLonger_ChildGoesFirst) {
  std::vector<PageRef> pages = Put({1, 2, 3, 4, 5, 6, 7, 8});
  // The wrong way round on purpose: the index must not rely on its callers here.
  for (PageRef& page : pages) page.Reset();
  std::vector<PageRef> taken;
  for (int32_t left = 3; left >= 0; --left) {
    taken.push_back(*index_.Allocate());
    EXPECT_EQ(Probe({1, 2, 3, 4, 5, 6, 7, 8}).blocks, left);
  }
}

TEST_F(PrefixIndexTest, Allocate_AllHeld_None) {
  std::vector<PageRef> pages = Put({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_FALSE(index_.Allocate().has_value());
  pages.pop_back();
  EXPECT_TRUE(index_.Allocate().has_value());
}

// Against a plain map of what was published, with sequences that come and go in any order.
TEST(PrefixIndex, RandomUse_AgreesWithModelAndLeaksNothing) {
  for (uint32_t seed_number = 0; seed_number < 50; ++seed_number) {
    std::mt19937 random(seed_number);
    PagePool pool(12);
    PrefixIndex index(&pool, {.block_size = kBlock});
    const BlockKey seed = SeedKey({.model_fingerprint = "m", .block_size = kBlock});
    std::vector<std::vector<PageRef>> held;
    for (int step = 0; step < 300; ++step) {
      if (held.size() > 2 || (!held.empty() && random() % 3 == 0)) {
        const size_t i = random() % held.size();
        ReleaseFromBack(&held[i]);
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
        continue;
      }
      std::vector<int32_t> tokens(kBlock * (1 + random() % 4));
      for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 2);
      const std::vector<BlockKey> keys = Keys(seed, tokens);
      std::vector<PageRef> pages = index.Match(seed, keys, tokens);
      for (size_t i = pages.size(); i < keys.size(); ++i) {
        std::optional<PageRef> page = index.Allocate();
        if (!page.has_value()) break;
        std::optional<PageRef> stands =
            index.Insert(seed, i == 0 ? seed : keys[i - 1], keys[i],
                         std::span(tokens).subspan(i * kBlock, kBlock), &*page);
        ASSERT_TRUE(stands.has_value());
        pages.push_back(std::move(*stands));
      }
      ASSERT_EQ(index.Probe(seed, keys, tokens).blocks, static_cast<int32_t>(pages.size()));
      held.push_back(std::move(pages));
      std::map<PageId, int32_t> holders;
      for (const auto& sequence : held) {
        for (const PageRef& page : sequence) ++holders[page.page()];
      }
      ASSERT_EQ(pool.num_in_use(), static_cast<int32_t>(holders.size()));
      for (const auto& [page, count] : holders) ASSERT_EQ(pool.num_holders(page), count);
      ASSERT_EQ(index.num_blocks(), pool.num_cached() + pool.num_in_use());
    }
    for (auto& pages : held) ReleaseFromBack(&pages);
    EXPECT_EQ(pool.num_in_use(), 0);
    EXPECT_EQ(pool.num_free() + pool.num_cached(), 12);
  }
}

}  // namespace
}  // namespace halfmoon::kv
