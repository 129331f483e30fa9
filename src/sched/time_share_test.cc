// SPDX-License-Identifier: Apache-2.0
#include "sched/time_share.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "sched/schedule_simulator.h"

namespace halfmoon::sched {
namespace {

constexpr PromptCost kCost{.fixed_us = 5.0, .token_us = 2.0};

std::vector<int32_t> Prompt(int32_t tokens, int32_t first) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < tokens; ++i) ids.push_back(first + i);
  return ids;
}

/// What became of sequences that decode and of prompts that came meanwhile.
struct Shared {
  double kept = 0.0;          // of their speed, while prompts were read
  double longest_us = 0.0;    // step
  int32_t prompt_tokens = 0;  // in the largest chunk
  int32_t steps = 0;          // until all prompts were read
  double us = 0.0;
};

Shared Simulate(const SimulatedCosts& costs, int32_t decoding, int32_t prompts,
                int32_t prompt_tokens) {
  ScheduleSimulator simulator({.limits = {.step_tokens = 128, .max_running = 64, .block_size = 16},
                               .num_pages = 8192,
                               .prefix_cache = false});
  simulator.SetCosts(costs);
  uint64_t id = 0;
  for (int32_t i = 0; i < decoding; ++i) simulator.Add(SeqId{++id}, Prompt(1, 7), 100'000);
  simulator.Step();
  const auto last_decoding = static_cast<int32_t>(id);
  for (int32_t i = 0; i < prompts; ++i) simulator.Add(SeqId{++id}, Prompt(prompt_tokens, 3), 1);
  Shared shared;
  double decoded = 0.0;
  while (static_cast<int32_t>(simulator.remaining().size()) > last_decoding) {
    const SimulatedStep step = simulator.Step();
    EXPECT_EQ(simulator.violation(), "");
    if (!simulator.violation().empty() || ++shared.steps > 100'000) break;
    decoded += step.plan.decoding;
    shared.us += step.us;
    shared.longest_us = std::max(shared.longest_us, step.us);
    shared.prompt_tokens = std::max(shared.prompt_tokens, step.plan.prompt_tokens);
  }
  const double alone_us = costs.decode_us + costs.decode_row_us * decoding;
  shared.kept = decoded / (shared.us / alone_us * decoding);
  return shared;
}

SimulatedCosts Costs(double share, double stall_us) {
  return {.share = {.decode_share = share, .max_stall_us = stall_us},
          .decode_us = 20.0,
          .decode_row_us = 1.0,
          .prompt = kCost};
}

TEST(TimeShare, LongPrompt_DecodingKeepsItsShareAndThePromptGetsTheRest) {
  for (const double share : {0.5, 0.7, 0.9}) {
    for (const int32_t decoding : {1, 8}) {
      for (const double stall_us : {30.0, 100.0}) {
        const Shared shared = Simulate(Costs(share, stall_us), decoding, 1, 1000);
        const std::string what =
            std::to_string(share) + " " + std::to_string(decoding) + " " + std::to_string(stall_us);
        // The prompt's first chunk goes ahead of what it owes: at the end one may be unpaid.
        EXPECT_GE(shared.kept, share - 0.04) << what;
        EXPECT_LE(shared.kept, share + 0.04) << what;
        EXPECT_LE(shared.longest_us, 20.0 + decoding + std::max(stall_us, 20.0 + decoding)) << what;
      }
    }
  }
}

TEST(TimeShare, Off_PromptsTakeWholeSteps) {
  const Shared shared = Simulate(Costs(0.0, 10.0), 1, 1, 1270);
  EXPECT_EQ(shared.steps, 10);
  EXPECT_EQ(shared.prompt_tokens, 127);
}

TEST(TimeShare, SeveralPrompts_EachGetsAsMuchAsOneAlone) {
  const Shared shared = Simulate(Costs(0.7, 100.0), 4, 3, 600);
  // 0.7 / (0.7 + 3 * 0.3) at first, 0.7 / (0.7 + 2 * 0.3) once one of them has been read, and so
  // on.
  EXPECT_GE(shared.kept, 0.42);
  EXPECT_LE(shared.kept, 0.62);
}

TEST(TimeShare, TokensDearerThanAnyStall_PromptStillProgresses) {
  SimulatedCosts costs = Costs(0.7, 1.0);
  costs.prompt = {.fixed_us = 500.0, .token_us = 100.0};
  const Shared shared = Simulate(costs, 1, 1, 20);
  EXPECT_EQ(shared.prompt_tokens, 1);
  EXPECT_LE(shared.steps, 20 * 20);
}

TEST(TimeShare, NobodyDecodes_NoLimit) {
  TimeShare share({.decode_share = 0.7, .max_stall_us = 10.0});
  share.Count({.prompts = 1, .prompt_tokens = 100, .step_us = 1e6});
  EXPECT_EQ(share.owed_us(), 0.0);
  EXPECT_FALSE(share.Limit(kCost, 5.0).hold);
}

TEST(TimeShare, CostsUnknown_OneStepWithoutPromptsTellsThem) {
  const TimeShare share({.decode_share = 0.7, .max_stall_us = 10.0});
  EXPECT_FALSE(share.Limit({}, 0.0).hold) << "nothing is known at all";
  EXPECT_EQ(share.Limit({}, 0.0).most_us, 0.0);
  EXPECT_TRUE(share.Limit(kCost, 0.0).hold);
  EXPECT_FALSE(share.Limit(kCost, 5.0).hold);
}

TEST(TimeShare, StepOfSeconds_IsPaidBackWithinABound) {
  TimeShare share({.decode_share = 0.5, .max_stall_us = 100.0});
  const StepTimes decode{.decoding = 1, .prompts = 1, .decode_us = 10.0, .step_us = 10.0};
  StepTimes slow = decode;
  slow.prompt_tokens = 8;
  slow.step_us = 1e7;
  share.Count(slow);
  EXPECT_EQ(share.owed_us(), 400.0);
  int steps = 0;
  for (; share.Limit(kCost, 10.0).hold; ++steps) share.Count(decode);
  EXPECT_EQ(steps, 40);
}

TEST(TimeShare, NoPromptWaits_NothingIsSavedUp) {
  TimeShare share({.decode_share = 0.5, .max_stall_us = 100.0});
  for (int i = 0; i < 100; ++i) {
    share.Count({.decoding = 4, .decode_us = 10.0, .step_us = 10.0});
  }
  EXPECT_EQ(share.owed_us(), 0.0);
}

TEST(PromptCost, TokensWithin_IsTheMostThatFit) {
  for (const double position_us : {0.0, 0.001, 0.5}) {
    const PromptCost cost{.token_us = 3.0, .position_us = position_us};
    for (const int32_t start : {0, 100, 30'000}) {
      for (const double us : {0.5, 10.0, 1e4, 1e6}) {
        const int32_t tokens = cost.TokensWithin(us, start);
        EXPECT_LE(cost.Us(tokens, start), us * (1.0 + 1e-9));
        EXPECT_GT(cost.Us(tokens + 1, start), us * (1.0 - 1e-9));
      }
    }
    EXPECT_EQ(cost.TokensWithin(-1.0, 0), 0);
  }
}

}  // namespace
}  // namespace halfmoon::sched
