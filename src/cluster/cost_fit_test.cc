// SPDX-License-Identifier: Apache-2.0
#include "cluster/cost_fit.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace halfmoon::cluster {
namespace {

const NodeCosts kDeclared{.prefill = {.fixed_us = 1000.0, .token_us = 100.0, .position_us = 0.01},
                          .decode = {.fixed_us = 20000.0, .sequence_us = 100.0, .kv_token_us = 0.1},
                          .network_bytes_per_s = 1e9};

TEST(CostFit_NothingMeasured, IsWhatWasDeclared) {
  const CostFit fit(kDeclared);
  EXPECT_EQ(fit.costs().prefill.token_us, 100.0);
  EXPECT_EQ(fit.costs().decode, kDeclared.decode);
}

TEST(CostFit_NoisyPrefills, PredictWithinFivePercent) {
  std::mt19937 random(3);
  std::normal_distribution<double> noise(1.0, 0.05);
  const sched::PromptCost truth{.fixed_us = 5000.0, .token_us = 300.0, .position_us = 0.05};
  CostFit fit(kDeclared);
  for (int i = 0; i < 300; ++i) {
    const auto tokens = static_cast<int32_t>(1 + random() % 20000);
    const auto start = static_cast<int32_t>(random() % 3 == 0 ? random() % 30000 : 0);
    fit.ObservePrefill(tokens, start, PrefillUs(truth, tokens, start) * noise(random));
  }
  for (const auto& [tokens, start] : {std::pair{500, 0}, {8000, 0}, {20000, 0}, {2000, 30000}}) {
    const double expected = PrefillUs(truth, tokens, start);
    EXPECT_NEAR(PrefillUs(fit.costs().prefill, tokens, start), expected, 0.05 * expected)
        << tokens << " from " << start;
  }
}

TEST(CostFit_OneKindOfStep, KeepsTheDeclaredSplitAndStaysFinite) {
  CostFit fit(kDeclared);
  for (int i = 0; i < 500; ++i) fit.ObserveDecode(4, 8000, 42400.0);
  EXPECT_NEAR(fit.costs().decode.Us(4, 8000), 42400.0, 500.0);
  EXPECT_GT(fit.costs().decode.Us(8, 16000), fit.costs().decode.Us(4, 8000));
  EXPECT_LT(fit.costs().decode.Us(8, 16000), 2.0 * 42400.0);
}

TEST(CostFit_ANodeThatBecomesSlow, IsFollowed) {
  CostFit fit(kDeclared);
  for (int i = 0; i < 200; ++i)
    fit.ObserveDecode(1 + i % 8, 1000 * (1 + i % 8), 20000.0 + 200.0 * (1 + i % 8));
  const double before = fit.costs().decode.Us(4, 4000);
  for (int i = 0; i < 200; ++i)
    fit.ObserveDecode(1 + i % 8, 1000 * (1 + i % 8), 60000.0 + 200.0 * (1 + i % 8));
  EXPECT_NEAR(before, 20800.0, 1000.0);
  EXPECT_NEAR(fit.costs().decode.Us(4, 4000), 60800.0, 3000.0);
}

TEST(CostFit_SenselessMeasurements, ArePassedOver) {
  CostFit fit(kDeclared);
  fit.ObservePrefill(0, 0, 10.0);
  fit.ObservePrefill(10, -1, 10.0);
  fit.ObservePrefill(10, 0, -1.0);
  fit.ObservePrefill(10, 0, std::numeric_limits<double>::quiet_NaN());
  fit.ObserveDecode(-1, 10, 10.0);
  fit.ObserveDecode(1, -10, std::numeric_limits<double>::infinity());
  EXPECT_EQ(fit.costs().prefill.token_us, 100.0);
  EXPECT_EQ(fit.costs().decode, kDeclared.decode);
}

}  // namespace
}  // namespace halfmoon::cluster
