// SPDX-License-Identifier: Apache-2.0
// What a replay of the conversation trace has to show of the Mooncake papers (docs/replay.md), with
// the constants of bench/costs/llama3-70b-8xa800.json.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "sim/report.h"
#include "sim/run_options.h"

namespace halfmoon::sim {
namespace {

class Replay : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    trace_ =
        ReadTrace(std::filesystem::path(HALFMOON_GOLDEN_DIR) / "traces/conversation_trace.jsonl.gz")
            .value();
    const std::filesystem::path costs =
        std::filesystem::path(HALFMOON_SOURCE_DIR) / "bench/costs/llama3-70b-8xa800.json";
    costs_ = ParseCostModel(ReadTextFile(costs, 1 << 20).value()).value();
  }
  static sim::Run Simulate(const Assignment& assignment) {
    sim::Run run;
    for (const auto& [name, value] : assignment) {
      const Status status = SetOption(name, value, &run.options);
      EXPECT_TRUE(status.ok()) << name;
    }
    Simulator simulator(run.options, costs_, trace_);
    run.result = simulator.Run();
    EXPECT_EQ(simulator.violation(), "");
    run.summary = Summarize(run.result, run.options.limits);
    return run;
  }
  static Summary Pd(const std::string& policy, Assignment more) {
    more.insert(more.begin(), {{"prefill", "8"}, {"decode", "8"}, {"policy", policy}});
    return Simulate(more).summary;
  }
  static Summary Coupled(Assignment more) {
    more.insert(more.begin(), {{"coupled", "16"}, {"policy", "load"}});
    return Simulate(more).summary;
  }

  static inline Trace trace_;
  static inline CostModel costs_;
};

// FAST'25, figure 5.
TEST_F(Replay, MeanTtft_RanksPoliciesAtEverySeedAndRate) {
  for (const std::string seed : {"1", "2", "3"}) {
    for (const std::string rate : {"1", "1.5"}) {
      const Assignment more{{"rate", rate}, {"seed", seed}};
      const double random = Pd("random", more).ttft_s.mean;
      const double load = Pd("load", more).ttft_s.mean;
      const double local = Pd("local", more).ttft_s.mean;
      const double global = Pd("global", more).ttft_s.mean;
      EXPECT_GT(random, load) << "rate " << rate << " seed " << seed;
      EXPECT_GT(load, local) << "rate " << rate << " seed " << seed;
      EXPECT_GT(local, global) << "rate " << rate << " seed " << seed;
      if (rate != "1") continue;
      EXPECT_GE(1.0 - global / local, 0.08) << "seed " << seed;
      EXPECT_LE(1.0 - global / local, 0.20) << "seed " << seed;
    }
  }
}

// FAST'25, figure 1.
TEST_F(Replay, EffectiveCapacity_IsThreeTimesMoreAt100MsAndLessSoAtLongerLimits) {
  double last = 1e9;
  for (const std::string limit : {"100", "200", "300"}) {
    const double gain = static_cast<double>(Pd("global", {{"tbt", limit}}).effective) /
                            static_cast<double>(Coupled({{"tbt", limit}}).effective) -
                        1.0;
    EXPECT_GT(gain, limit == "100" ? 3.0 : 0.0) << limit;
    EXPECT_LT(gain, last) << limit;
    last = gain;
  }
}

// FAST'25, figure 8.
TEST_F(Replay, PrefillTime_IsAThirdLessThanWithoutACache) {
  const double ratio = Pd("global", {}).prefill_s / Coupled({}).prefill_s;
  EXPECT_GE(ratio, 0.60);
  EXPECT_LE(ratio, 0.70);
}

TEST_F(Replay, Tbt_IsNeverAbove300MsApart) {
  EXPECT_EQ(Pd("global", {{"tbt", "300"}}).tbt_kept_share, 1.0);
}

// arXiv 2407.00079, table 3.
TEST_F(Replay, EarlyRejection_WastesHalfOfThePrefillAtMost) {
  const Assignment scarce{{"prefill", "8"}, {"decode", "3"}, {"policy", "global"}, {"rate", "2"}};
  const auto wasted = [&](const std::string& reject) {
    Assignment all = scarce;
    all.emplace_back("reject", reject);
    return Simulate(all).summary;
  };
  const Summary late = wasted("late");
  const Summary early = wasted("early");
  const Summary predictive = wasted("predictive");
  EXPECT_GT(late.rejected_late, 0);
  EXPECT_LE(early.wasted_prefill_s, 0.5 * late.wasted_prefill_s);
  EXPECT_LE(predictive.wasted_prefill_s, early.wasted_prefill_s);
}

// docs/replay.md has more rates, the other traces' shapes, and intervals over seeds.
TEST_F(Replay, Slack_ServesMoreWithinLimitsThanGlobal) {
  for (const std::string reject : {"none", "predictive"}) {
    for (const std::string seed : {"1", "2"}) {
      const Assignment more{{"rate", "2"}, {"reject", reject}, {"jitter", "3"}, {"seed", seed}};
      const double ours = Pd("slack", more).effective_share;
      EXPECT_GT(ours, Pd("global", more).effective_share + 0.05) << reject << " seed " << seed;
      EXPECT_GT(ours, 0.95) << reject << " seed " << seed;
    }
  }
}

TEST_F(Replay, SameSeed_GivesTheSameBytes) {
  const Assignment assignment{{"prefill", "8"},     {"decode", "8"}, {"jitter", "3"},
                              {"policy", "random"}, {"seed", "7"},   {"reject", "predictive"}};
  const std::vector<sim::Run> first{Simulate(assignment)};
  const std::vector<sim::Run> second{Simulate(assignment)};
  EXPECT_EQ(json::Serialize(ReportJson(first, "")), json::Serialize(ReportJson(second, "")));
  EXPECT_EQ(FormatHtml(first, ""), FormatHtml(second, ""));
}

}  // namespace
}  // namespace halfmoon::sim
