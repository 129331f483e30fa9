// SPDX-License-Identifier: Apache-2.0
#include "sched/time_share.h"

#include <algorithm>

namespace halfmoon::sched {
namespace {

// A step that took much longer than any chunk should (the machine was busy, nothing was known of
// costs yet) is paid back as if it had been this many of the longest chunks: prompts do not stand
// still for seconds because of it.
constexpr double kMostOwed = 4.0;

// What a prompt took is paid back with this much more. Paid back exactly, the share would be what
// answers keep on average: a little less than what was asked for in half of all cases, since the
// costs of steps are estimates.
constexpr double kInterest = 0.04;

}  // namespace

double TimeShare::MostUs(double decode_us) const {
  return std::max(options_.max_stall_us, decode_us);
}

PromptLimit TimeShare::Limit(const PromptCost& cost, double decode_us) const {
  if (options_.decode_share <= 0.0 || cost.token_us <= 0.0) return {.cost = cost};
  return {.hold = decode_us <= 0.0 || owed_us_ > 0.0, .most_us = MostUs(decode_us), .cost = cost};
}

void TimeShare::Count(const StepTimes& step) {
  if (options_.decode_share <= 0.0 || step.decoding == 0) {
    // Nobody who could be owed anything.
    owed_us_ = 0.0;
    return;
  }
  const double paid_us = step.decode_us * (1.0 - options_.decode_share) / options_.decode_share *
                         std::max(1, step.prompts);
  const double taken_us = step.prompt_tokens > 0
                              ? std::max(0.0, step.step_us - step.decode_us) * (1.0 + kInterest)
                              : 0.0;
  // Prompts that wait keep what a step paid beyond their debt. Where none waits nothing is saved
  // up: it would let the next one take more than its share.
  const double least_us = step.prompts > 0 ? -paid_us : 0.0;
  owed_us_ = std::clamp(owed_us_ + taken_us - paid_us, least_us,
                        std::max(least_us, kMostOwed * MostUs(step.decode_us)));
}

}  // namespace halfmoon::sched
