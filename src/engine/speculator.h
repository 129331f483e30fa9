// SPDX-License-Identifier: Apache-2.0
// Speculative decoding beside the step loop: has tokens guessed ahead, so that one forward pass
// checks several, and decides how many from what it measures.
//
// The step loop chooses each token exactly as it would without guesses, from the logits of its own
// position with its own random number, and keeps what a guess has computed only where the guess
// equals that choice. So outputs are those of plain decoding, token for token, at any temperature
// and seed, and the distribution of sampled tokens with them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "engine/depth_policy.h"
#include "engine/drafter.h"

namespace halfmoon::engine {

/// Engine thread only.
class Speculator {
 public:
  struct Options {
    int32_t max_depth = 0;      ///< guesses of one sequence in one step
    int32_t budget_tokens = 0;  ///< guesses of all sequences in one step
    bool adaptive = true;       ///< off: always max_depth
  };
  /// The clock outlives it.
  Speculator(std::unique_ptr<Drafter> drafter, const Clock* clock, const Options& options);

  /// A running sequence of which the next step computes `lacking_tokens`; `most` guesses are of use
  /// to it.
  struct Candidate {
    sched::SeqId id{};
    int32_t lacking_tokens = 0;
    int32_t most = 0;
    int32_t depth = 0;  ///< the answer
  };
  /// How many guesses each sequence should ask for in the next step. Where a sequence lacks more
  /// than one token, whether guessing for it looks worthwhile (then 1, else 0).
  void ChooseDepths(std::span<Candidate> candidates);

  /// The next step begins: its guesses.
  void Propose(std::span<DraftJob> jobs);
  /// The model computes `tokens` tokens of the step. prefill: not only tokens that were lacking
  /// alone, so that the time says nothing about decoding.
  void BeginForward(int32_t tokens, bool prefill);
  void EndForward();
  /// `accepted` of a sequence's guesses came true; with `rejected` one after them did not.
  void Observe(sched::SeqId id, int32_t accepted, bool rejected);
  /// The step ends.
  void Learn(std::span<const ComputedRows> rows);
  void Forget(sched::SeqId id);

 private:
  struct State {
    Acceptance acceptance;
    int32_t steps_without = 0;  // since a guess of it was checked
    int32_t probe_after = 0;    // steps without, after which guesses are tried again
  };
  State& At(sched::SeqId id);
  double SecondsSince(TimeUs begin_us) const;

  const std::unique_ptr<Drafter> drafter_;
  const Clock* const clock_;
  const Options options_;
  Acceptance overall_;  // of all sequences: what a new one starts with
  CostCurve step_;
  CostCurve draft_;
  std::map<sched::SeqId, State> states_;
  // Of the current step.
  int32_t rounds_ = 0;
  int32_t tokens_ = 0;
  bool prefill_ = false;
  double draft_s_ = 0.0;
  TimeUs forward_us_ = 0;
  std::vector<DepthCandidate> depths_;
};

}  // namespace halfmoon::engine
