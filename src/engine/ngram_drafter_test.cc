// SPDX-License-Identifier: Apache-2.0
#include "engine/ngram_drafter.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

namespace halfmoon::engine {
namespace {

using Ids = std::vector<int32_t>;

Ids Guess(const Ids& ids, int32_t max_tokens, int32_t min_match = 3) {
  NgramDrafter drafter(min_match);
  DraftJob job{.ids = ids, .max_tokens = max_tokens};
  drafter.Propose({&job, 1});
  return job.tokens;
}

TEST(NgramDrafter, SeenBefore_WhatFollowedThen) {
  EXPECT_EQ(Guess({1, 2, 3, 4, 5, 6, 9, 1, 2, 3}, 2), (Ids{4, 5}));
  EXPECT_EQ(Guess({1, 2, 3, 4, 5, 6, 9, 1, 2, 3}, 1), Ids{4});
}

TEST(NgramDrafter, NotSeenOrTooShort_Nothing) {
  EXPECT_TRUE(Guess({1, 2, 3, 4, 5, 6}, 4).empty());
  EXPECT_TRUE(Guess({7, 2, 3, 4, 8, 2, 3}, 4).empty());
  EXPECT_EQ(Guess({7, 2, 3, 4, 8, 2, 3}, 4, 2), (Ids{4, 8, 2, 3}));
  for (size_t n = 1; n < 6; ++n) EXPECT_TRUE(Guess(Ids(n, 1), 4, 8).empty());
  EXPECT_TRUE(Guess({1}, 4, 1).empty());
}

TEST(NgramDrafter, SeveralMatches_LongestThenLatest) {
  // 2 3 4 was followed by 5, later by 6; 1 2 3 4 only by 5.
  EXPECT_EQ(Guess({1, 2, 3, 4, 5, 0, 2, 3, 4, 6, 1, 2, 3, 4}, 1), Ids{5});
  EXPECT_EQ(Guess({9, 2, 3, 4, 5, 0, 2, 3, 4, 6, 1, 2, 3, 4}, 1), Ids{6});
}

TEST(NgramDrafter, Period_GoesOn) {
  EXPECT_EQ(Guess({1, 2, 1, 2, 1, 2}, 7), (Ids{1, 2, 1, 2, 1, 2, 1}));
  EXPECT_EQ(Guess(Ids(50, 4), 3), (Ids{4, 4, 4}));
}

TEST(NgramDrafter, LongText_LooksAtItsEnd) {
  Ids ids(200'000);
  std::iota(ids.begin(), ids.end(), 0);
  // The match is farther back than the window.
  ids.insert(ids.end(), {10, 11, 12, 13});
  EXPECT_TRUE(Guess(ids, 4).empty());
  ids.insert(ids.end(), {199'990, 199'991, 199'992});
  EXPECT_EQ(Guess(ids, 2), (Ids{199'993, 199'994}));
}

// Against the definition, on texts that repeat themselves a lot.
TEST(NgramDrafter, RandomTexts_AsDefined) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Ids ids(1 + random() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 3);
    size_t best = 2;
    size_t follows = ids.size();
    for (size_t end = 1; end < ids.size(); ++end) {
      size_t match = 0;
      while (match < std::min<size_t>(16, end) &&
             ids[end - 1 - match] == ids[ids.size() - 1 - match]) {
        ++match;
      }
      if (match >= best && match >= 3) {
        best = match;
        follows = end;
      }
    }
    const Ids guess = Guess(ids, 5);
    if (follows == ids.size()) {
      EXPECT_TRUE(guess.empty());
      continue;
    }
    Ids want = ids;
    for (size_t i = 0; i < 5; ++i) want.push_back(want[follows + i]);
    EXPECT_EQ(guess, Ids(want.end() - 5, want.end()));
  }
}

}  // namespace
}  // namespace halfmoon::engine
