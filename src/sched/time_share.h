// SPDX-License-Identifier: Apache-2.0
// How running answers and prompts share time. A step that reads a prompt beside sequences that
// decode takes longer than one without, and what it takes longer is lent by the sequences that
// decode: the prompt then waits until steps without it have paid that back. So prompts are read in
// few large chunks (small ones read the weights again for a few tokens each), and over a window the
// share is kept whatever a step costs.
#pragma once

#include <cstdint>

#include "sched/scheduler.h"

namespace halfmoon::sched {

struct ShareOptions {
  /// Part of their speed that decoding sequences keep while one prompt is read beside them, [0, 1);
  /// 0: prompts take as much of each step as there is. Each further prompt gets as much time as
  /// that one: with n of them decoding keeps share / (share + n * (1 - share)).
  double decode_share = 0.0;
  /// Most time of prompts in one step in which others decode; or as much as decoding takes of that
  /// step, where this is more. Above 0.
  double max_stall_us = 1.0;
};

/// A step as it was.
struct StepTimes {
  int32_t decoding = 0;       ///< Plan::decoding
  int32_t prompts = 0;        ///< Plan::prompts
  int32_t prompt_tokens = 0;  ///< Plan::prompt_tokens
  double decode_us = 0.0;     ///< what it takes without the prompt tokens; 0: not known
  double step_us = 0.0;       ///< what it took
};

/// The account between prompts and decoding. A function of what it is told: no clock.
class TimeShare {
 public:
  explicit TimeShare(const ShareOptions& options) : options_(options) {}

  /// What prompts may take of the next step. decode_us: what decoding takes of it; 0: not known,
  /// and then prompts wait for one step without them as soon as their own cost is known.
  PromptLimit Limit(const PromptCost& cost, double decode_us) const;
  void Count(const StepTimes& step);
  /// What prompts have taken beyond their share; below 0: what they have left of it.
  double owed_us() const { return owed_us_; }

 private:
  double MostUs(double decode_us) const;

  const ShareOptions options_;
  double owed_us_ = 0.0;
};

}  // namespace halfmoon::sched
