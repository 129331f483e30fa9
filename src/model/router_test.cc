// SPDX-License-Identifier: Apache-2.0
#include "model/router.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace halfmoon::model {
namespace {

struct Choice {
  std::vector<int32_t> indices;
  std::vector<float> weights;
};

Choice Choose(const MoeDescription& moe, const std::vector<float>& scores,
              const std::vector<float>& bias = {}) {
  Choice choice;
  choice.indices.resize(static_cast<size_t>(moe.top_k));
  choice.weights.resize(static_cast<size_t>(moe.top_k));
  std::vector<float> scratch(scores.size());
  ChooseExperts(moe, scores, bias, scratch, choice.indices, choice.weights);
  return choice;
}

MoeDescription Moe(int experts, int top_k) {
  return {.num_experts = experts, .top_k = top_k, .expert_dim = 8};
}

TEST(ChooseExperts, LargestScores_AscendingAndNormalised) {
  const Choice choice = Choose(Moe(4, 2), {0.1f, 0.2f, 0.4f, 0.3f});
  EXPECT_EQ(choice.indices, (std::vector<int32_t>{2, 3}));
  EXPECT_FLOAT_EQ(choice.weights[0], 0.4f / 0.7f);
  EXPECT_FLOAT_EQ(choice.weights[1], 0.3f / 0.7f);
}

TEST(ChooseExperts, EqualScores_LowerExpertWins) {
  EXPECT_EQ(Choose(Moe(4, 2), {0.25f, 0.25f, 0.25f, 0.25f}).indices, (std::vector<int32_t>{0, 1}));
}

TEST(ChooseExperts, Bias_MovesTheChoiceButNotTheWeights) {
  MoeDescription moe = Moe(4, 2);
  moe.normalise_weights = false;
  moe.weight_scale = 2.5f;
  const Choice choice = Choose(moe, {0.9f, 0.8f, 0.1f, 0.2f}, {-1.0f, 0.0f, 1.0f, 0.0f});
  EXPECT_EQ(choice.indices, (std::vector<int32_t>{1, 2}));
  EXPECT_FLOAT_EQ(choice.weights[0], 0.8f * 2.5f);
  EXPECT_FLOAT_EQ(choice.weights[1], 0.1f * 2.5f);
}

TEST(ChooseExperts, Groups_SumOfTwoLargestDecides) {
  MoeDescription moe = Moe(6, 2);
  moe.num_groups = 3;
  moe.kept_groups = 1;
  // The best single expert is in group 0, the best pair in group 2.
  const Choice choice = Choose(moe, {0.9f, 0.0f, 0.5f, 0.3f, 0.6f, 0.5f});
  EXPECT_EQ(choice.indices, (std::vector<int32_t>{4, 5}));
}

TEST(ChooseExperts, NegativeBias_DroppedGroupsStayOut) {
  MoeDescription moe = Moe(4, 2);
  moe.num_groups = 2;
  moe.kept_groups = 1;
  // All values of the kept group are negative: dropped experts count as -infinity, not as 0.
  const Choice choice = Choose(moe, {0.5f, 0.5f, 0.4f, 0.4f}, {-1.0f, -1.0f, -2.0f, -2.0f});
  EXPECT_EQ(choice.indices, (std::vector<int32_t>{0, 1}));
}

TEST(ChooseExperts, AllScoresZero_EpsilonKeepsWeightsFinite) {
  MoeDescription moe = Moe(3, 2);
  moe.norm_epsilon = 1e-20f;
  const Choice choice = Choose(moe, {0.0f, 0.0f, 0.0f});
  EXPECT_EQ(choice.weights, (std::vector<float>{0.0f, 0.0f}));
}

TEST(ChooseExperts, NaN_LosesAgainstEverything) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Choose(Moe(4, 2), {nan, 0.1f, nan, 0.2f}).indices, (std::vector<int32_t>{1, 3}));
  // Nothing else is left: some experts are chosen, and indices stay in range.
  EXPECT_EQ(Choose(Moe(3, 2), {nan, nan, nan}).indices, (std::vector<int32_t>{0, 1}));
}

TEST(ExpertGroups, Order_SlotsFollowIt) {
  ExpertGroups groups(6, 5);
  const std::vector<int32_t> chosen = {0, 3, 1, 3, 0, 1};  // three tokens of two experts
  groups.Group(chosen, 2);
  EXPECT_EQ(groups.begin(0), 0);
  EXPECT_EQ(groups.begin(1), 2);
  EXPECT_EQ(groups.begin(3), 4);
  EXPECT_EQ(groups.begin(2), groups.end(2));
  const std::vector<int32_t> order = {3, 0, 1};
  groups.Group(chosen, 2, order);
  EXPECT_EQ(groups.begin(3), 0);
  EXPECT_EQ(groups.end(3), 2);
  EXPECT_EQ(groups.begin(0), 2);
  EXPECT_EQ(groups.end(1), 6);
  EXPECT_EQ(groups.begin(2), groups.end(2));
  for (size_t i = 0; i < chosen.size(); ++i) {
    const int32_t slot = groups.token_slot()[i];
    EXPECT_EQ(groups.slot_token()[slot], static_cast<int32_t>(i / 2));
    EXPECT_GE(slot, groups.begin(static_cast<size_t>(chosen[i])));
    EXPECT_LT(slot, groups.end(static_cast<size_t>(chosen[i])));
  }
}

}  // namespace
}  // namespace halfmoon::model
