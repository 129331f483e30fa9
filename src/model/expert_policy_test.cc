// SPDX-License-Identifier: Apache-2.0
#include "model/expert_policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

namespace halfmoon::model {
namespace {

const auto kNothing = [](size_t) { return false; };

/// Uses an expert as a store does: brings it in over a victim where it is not there. True: a hit.
bool Access(ExpertPolicy* policy, size_t places, size_t expert) {
  policy->Use(expert);
  if (policy->Holds(expert)) return true;
  if (policy->size() == places) policy->Remove(policy->Victim(kNothing));
  policy->Insert(expert);
  return false;
}

double HitRate(size_t places, size_t experts, const std::vector<size_t>& accesses) {
  ExpertPolicy policy(experts, places);
  size_t hits = 0;
  for (const size_t expert : accesses) hits += Access(&policy, places, expert) ? 1 : 0;
  return static_cast<double>(hits) / static_cast<double>(accesses.size());
}

TEST(ExpertPolicy, EqualHeat_LongestUnusedGoesFirst) {
  ExpertPolicy policy(10, 1);
  Access(&policy, 1, 3);
  EXPECT_TRUE(policy.Holds(3));
  EXPECT_EQ(policy.Victim(kNothing), 3u);
  ExpertPolicy four(10, 4);
  for (const size_t e : {0, 1, 2, 3}) Access(&four, 4, e);
  // 0, 1 and 2 fill the kept places, 3 passes.
  EXPECT_EQ(four.Victim(kNothing), 3u);
  // A use of 3 moves it up and 0, the longest unused, down.
  Access(&four, 4, 3);
  EXPECT_EQ(four.Victim(kNothing), 0u);
}

TEST(ExpertPolicy, Pinned_NeverAVictim) {
  ExpertPolicy policy(8, 8);
  for (size_t e = 0; e < 8; ++e) Access(&policy, 8, e);
  for (size_t free = 0; free < 8; ++free) {
    EXPECT_EQ(policy.Victim([&](size_t e) { return e != free; }), free);
  }
}

TEST(ExpertPolicy, HotExpert_SurvivesARunThroughAllOthers) {
  ExpertPolicy policy(1000, 16);
  for (int i = 0; i < 50; ++i) Access(&policy, 16, 7);
  for (size_t e = 100; e < 1000; ++e) Access(&policy, 16, e);
  EXPECT_TRUE(policy.Holds(7));
}

TEST(ExpertPolicy, OnceHot_LeavesAfterItsUsesAged) {
  ExpertPolicy policy(100, 8);
  for (int i = 0; i < 200; ++i) Access(&policy, 8, 99);
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) Access(&policy, 8, random() % 20);
  EXPECT_FALSE(policy.Holds(99));
}

TEST(ExpertPolicy, CyclicScan_KeepsAShareWherePlainLruHasNone) {
  std::vector<size_t> accesses;
  for (int round = 0; round < 20; ++round) {
    for (size_t e = 0; e < 128; ++e) accesses.push_back(e);
  }
  EXPECT_GT(HitRate(32, 128, accesses), 0.15);
}

TEST(ExpertPolicy, SkewedUse_HitsMoreThanTheShareOfPlaces) {
  std::mt19937 random(5);
  std::vector<double> weights;
  for (int e = 0; e < 256; ++e) weights.push_back(1.0 / std::pow(e + 1.0, 1.0));
  std::discrete_distribution<size_t> zipf(weights.begin(), weights.end());
  std::vector<size_t> accesses;
  for (int i = 0; i < 50000; ++i) accesses.push_back(zipf(random));
  // The 64 hottest of 256 take 0.77 of these uses.
  EXPECT_GT(HitRate(64, 256, accesses), 0.70);
  EXPECT_NEAR(HitRate(256, 256, accesses), 1.0, 0.01);
}

TEST(ExpertPolicy, AnyPlaces_HoldsAsManyAsThereAre) {
  for (const size_t places : {1, 2, 3, 5, 64}) {
    ExpertPolicy policy(64, places);
    std::mt19937 random(static_cast<uint32_t>(places));
    for (int i = 0; i < 3000; ++i) {
      const size_t expert = random() % 64;
      Access(&policy, places, expert);
      ASSERT_TRUE(policy.Holds(expert));
      ASSERT_LE(policy.size(), places);
    }
    EXPECT_EQ(policy.size(), places);
    std::set<size_t> victims;
    while (policy.size() > 0) {
      const size_t victim = policy.Victim(kNothing);
      EXPECT_TRUE(victims.insert(victim).second);
      policy.Remove(victim);
    }
    EXPECT_EQ(victims.size(), places);
  }
}

}  // namespace
}  // namespace halfmoon::model
