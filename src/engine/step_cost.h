// SPDX-License-Identifier: Apache-2.0
// What steps cost, learned from those that ran: decoding by the rows of a step, and what prompt
// tokens add to it. What it says moves the size of chunks, never a token.
#pragma once

#include <array>
#include <cstdint>

#include "engine/depth_policy.h"
#include "sched/scheduler.h"

namespace halfmoon::engine {

/// A step that was computed.
struct StepSample {
  int32_t decode_rows = 0;    ///< tokens and guesses of sequences that decode
  int32_t prompt_tokens = 0;  ///< other tokens
  double attended = 0.0;      ///< positions that prompt tokens attend to, summed over them
  double us = 0.0;            ///< its time
};

/// Engine thread only.
class StepCosts {
 public:
  /// Times of zero and below say nothing and are passed over. One that is far above what was known
  /// counts in part, as in CostCurve.
  void Observe(const StepSample& sample);
  /// Of a step without prompt tokens; 0 as long as none was seen, or for 0 rows.
  double DecodeUs(int32_t rows) const;
  /// Least squares of relative errors over the prompts of late; with as many of its terms as those
  /// tell apart.
  const sched::PromptCost& prompt() const { return prompt_; }

 private:
  static constexpr size_t kTerms = 3;  // one, tokens, attended positions

  void ObservePrompt(const StepSample& sample, double us);
  void Fit();

  CostCurve decode_{0.0};
  std::array<std::array<double, kTerms>, kTerms> products_{};  // of terms, each over its time
  std::array<double, kTerms> sums_{};
  sched::PromptCost prompt_;
};

}  // namespace halfmoon::engine
