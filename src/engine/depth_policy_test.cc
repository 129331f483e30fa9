// SPDX-License-Identifier: Apache-2.0
#include "engine/depth_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace halfmoon::engine {
namespace {

TEST(CostCurve, NothingMeasured_Zero) {
  CostCurve curve(0.25);
  EXPECT_EQ(curve.At(1), 0.0);
  curve.Observe(3, 0.0);
  curve.Observe(3, -1.0);
  EXPECT_EQ(curve.At(3), 0.0);
}

TEST(CostCurve, BetweenAndBeyondPoints_StraightLines) {
  CostCurve curve(0.25);
  curve.Observe(2, 1.0);
  curve.Observe(6, 3.0);
  EXPECT_DOUBLE_EQ(curve.At(2), 1.0);
  EXPECT_DOUBLE_EQ(curve.At(4), 2.0);
  EXPECT_DOUBLE_EQ(curve.At(12), 3.0 * 1.25);  // twice as many: a quarter more
  EXPECT_DOUBLE_EQ(curve.At(1), 0.5);
  CostCurve proportional(1.0);
  proportional.Observe(0, 1.0);
  EXPECT_DOUBLE_EQ(proportional.At(0), 1.0);
  EXPECT_DOUBLE_EQ(proportional.At(2), 3.0);
}

TEST(CostCurve, LargeCounts_NeighboursShareAPoint) {
  CostCurve curve(0.25);
  curve.Observe(1000, 1.0);
  EXPECT_DOUBLE_EQ(curve.At(1000), 1.0);
  curve.Observe(1001, 1.0);
  EXPECT_NEAR(curve.At(1001), 1.0, 1e-3);
  curve.Observe(1 << 30, 2.0);
  EXPECT_GT(curve.At(1 << 30), 1.0);
}

TEST(CostCurve, Change_FollowedAndOutliersDamped) {
  CostCurve curve(0.25);
  curve.Observe(1, 1.0);
  curve.Observe(1, 1000.0);
  EXPECT_LT(curve.At(1), 1.2);
  for (int i = 0; i < 60; ++i) curve.Observe(1, 3.0);
  EXPECT_NEAR(curve.At(1), 3.0, 0.01);
}

TEST(CostCurve, NotMeasuredForLong_Forgotten) {
  CostCurve curve(0.25);
  curve.Observe(4, 100.0);
  for (int i = 0; i < 127; ++i) curve.Observe(1, 1.0);
  EXPECT_DOUBLE_EQ(curve.At(4), 100.0);
  curve.Observe(1, 1.0);
  EXPECT_DOUBLE_EQ(curve.At(4), 1.75);
  curve.Observe(4, 2.0);
  EXPECT_DOUBLE_EQ(curve.At(4), 2.0);
}

TEST(Acceptance, Observations_MoveTheEstimate) {
  Acceptance acceptance(0.5, 0.1);
  acceptance.Observe(0, false);
  EXPECT_DOUBLE_EQ(acceptance.estimate(), 0.5);
  acceptance.Observe(1, false);
  EXPECT_DOUBLE_EQ(acceptance.estimate(), 0.55);
  acceptance.Observe(0, true);
  EXPECT_DOUBLE_EQ(acceptance.estimate(), 0.495);
  for (int i = 0; i < 200; ++i) acceptance.Observe(3, true);
  EXPECT_NEAR(acceptance.estimate(), 0.75, 0.05);
}

struct Machine {
  /// A step of n tokens takes fixed + n * each; guessing takes `round` a round.
  Machine(double fixed, double each, double round) {
    for (int32_t n = 1; n <= 64; ++n) {
      step.Observe(n, fixed + n * each);
      if (round > 0.0) draft.Observe(n, n * round);
    }
  }
  std::vector<int32_t> Depths(std::vector<DepthCandidate> candidates, int32_t other_tokens = 0,
                              int32_t budget_tokens = 64) const {
    ChooseDepths({.step = step,
                  .draft = draft,
                  .other_tokens = other_tokens,
                  .budget_tokens = budget_tokens},
                 candidates);
    std::vector<int32_t> depths;
    for (const DepthCandidate& candidate : candidates) depths.push_back(candidate.depth);
    return depths;
  }
  CostCurve step{0.25};
  CostCurve draft{1.0};
};

using Depths = std::vector<int32_t>;

TEST(ChooseDepths, NothingMeasured_NoGuesses) {
  std::vector<DepthCandidate> candidates = {{.acceptance = 1.0, .most = 8}};
  const CostCurve step(0.25);
  const CostCurve draft(1.0);
  ChooseDepths({.step = step, .draft = draft, .budget_tokens = 64}, candidates);
  EXPECT_EQ(candidates[0].depth, 0);
  ChooseDepths({.step = step, .draft = draft, .budget_tokens = 64}, {});
}

TEST(ChooseDepths, FreeRoomInTheStep_AsDeepAsAllowed) {
  const Machine machine(1.0, 0.0, 0.0);
  EXPECT_EQ(machine.Depths({{.acceptance = 0.5, .most = 8}}), Depths{8});
  EXPECT_EQ(machine.Depths({{.acceptance = 0.5, .most = 3}}), Depths{3});
  EXPECT_EQ(machine.Depths({{.acceptance = 0.5, .most = 0}}), Depths{0});
}

TEST(ChooseDepths, TokensAtFullPrice_None) {
  const Machine machine(0.0, 1.0, 0.0);
  EXPECT_EQ(machine.Depths({{.acceptance = 0.9, .most = 8}}), Depths{0});
  // Even certain guesses gain nothing then.
  EXPECT_EQ(machine.Depths({{.acceptance = 1.0, .most = 8}}), Depths{0});
}

TEST(ChooseDepths, DepthMaximisesTokensASecond) {
  const double each = 0.2;
  const Machine machine(1.0 - each, each, 0.05);
  for (const double a : {0.3, 0.5, 0.7, 0.8, 0.9, 0.95}) {
    int32_t best = 0;
    double best_rate = 1.05;
    double expected = 1.0;
    double gain = 1.0;
    for (int32_t d = 1; d <= 12; ++d) {
      gain *= a;
      expected += gain;
      const double rate = expected / (1.0 + d * each + d * 0.05);
      if (rate > best_rate) {
        best_rate = rate;
        best = d;
      }
    }
    EXPECT_EQ(machine.Depths({{.acceptance = a, .most = 12}}), Depths{best}) << a;
  }
  EXPECT_EQ(machine.Depths({{.acceptance = 0.2, .most = 12}}), Depths{0});
  EXPECT_GT(machine.Depths({{.acceptance = 0.95, .most = 12}})[0], 3);
}

TEST(ChooseDepths, ExpensiveDrafter_None) {
  const Machine machine(1.0, 0.0, 1.0);
  EXPECT_EQ(machine.Depths({{.acceptance = 0.9, .most = 8}}), Depths{0});
}

TEST(ChooseDepths, SeveralSequences_LikeliestGuessesFirst) {
  const Machine machine(1.0, 0.0, 0.0);
  const Depths depths = machine.Depths({{.acceptance = 0.1, .most = 8},
                                        {.acceptance = 0.9, .most = 8},
                                        {.acceptance = 0.8, .most = 8}},
                                       0, 6);
  EXPECT_EQ(depths[0], 0);
  EXPECT_GT(depths[1], depths[2]);
  EXPECT_EQ(depths[1] + depths[2], 6);
}

TEST(ChooseDepths, LargeStepAnyway_GuessesAreCheaper) {
  // A weak guess does not pay for itself alone; beside a long prompt it hardly makes the step
  // longer.
  const Machine machine(1.0, 0.5, 0.0);
  EXPECT_EQ(machine.Depths({{.acceptance = 0.3, .most = 4}}), Depths{0});
  EXPECT_EQ(machine.Depths({{.acceptance = 0.3, .most = 1}}, 60), Depths{1});
}

}  // namespace
}  // namespace halfmoon::engine
