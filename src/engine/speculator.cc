// SPDX-License-Identifier: Apache-2.0
#include "engine/speculator.h"

#include <algorithm>
#include <utility>

namespace halfmoon::engine {
namespace {

// Hopeful, so that a first request tries.
constexpr double kInitialAcceptance = 0.7;
constexpr double kSequenceWeight = 0.1;
constexpr double kOverallWeight = 0.02;
// Steps without guesses after which a sequence tries some again; doubled after each try that did
// not make guessing worthwhile. A try costs a good part of a step, so at worst 2 % at first.
constexpr int32_t kFirstProbe = 16;
constexpr int32_t kLastProbe = 512;
constexpr int32_t kProbeDepth = 2;
// Beyond what the model makes of 1 token, another costs about a quarter where nothing is known.
constexpr double kMarginalStep = 0.25;

}  // namespace

Speculator::Speculator(std::unique_ptr<Drafter> drafter, const Clock* clock, const Options& options)
    : drafter_(std::move(drafter)),
      clock_(clock),
      options_(options),
      overall_(kInitialAcceptance, kOverallWeight),
      step_(kMarginalStep),
      draft_(1.0) {}

Speculator::State& Speculator::At(sched::SeqId id) {
  const auto it = states_.find(id);
  if (it != states_.end()) return it->second;
  return states_
      .emplace(id, State{.acceptance = Acceptance(overall_.estimate(), kSequenceWeight),
                         .probe_after = kFirstProbe})
      .first->second;
}

void Speculator::ChooseDepths(std::span<Candidate> candidates) {
  depths_.clear();
  int32_t other_tokens = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.lacking_tokens > 1) {
      other_tokens += candidate.lacking_tokens;
      continue;
    }
    depths_.push_back({.acceptance = At(candidate.id).acceptance.estimate(),
                       .most = std::min(candidate.most, options_.max_depth)});
  }
  const DepthCosts costs{.step = step_,
                         .draft = draft_,
                         .other_tokens = other_tokens,
                         .budget_tokens = options_.budget_tokens};
  if (options_.adaptive) {
    halfmoon::engine::ChooseDepths(costs, depths_);
  } else {
    for (DepthCandidate& candidate : depths_) candidate.depth = candidate.most;
  }
  size_t next = 0;
  for (Candidate& candidate : candidates) {
    State& state = At(candidate.id);
    if (candidate.lacking_tokens > 1) {
      DepthCandidate alone{.acceptance = state.acceptance.estimate(),
                           .most = std::min(candidate.most, options_.max_depth)};
      halfmoon::engine::ChooseDepths({.step = step_, .draft = draft_, .budget_tokens = 1},
                                     {&alone, 1});
      candidate.depth = alone.depth;
      continue;
    }
    const DepthCandidate& chosen = depths_[next++];
    candidate.depth = chosen.depth;
    if (chosen.depth == 0 && ++state.steps_without >= state.probe_after) {
      candidate.depth = std::min(kProbeDepth, chosen.most);
    }
  }
}

void Speculator::Propose(std::span<DraftJob> jobs) {
  const TimeUs begin_us = clock_->NowUs();
  rounds_ = 0;
  if (!jobs.empty()) drafter_->Propose(jobs);
  for (const DraftJob& job : jobs) {
    rounds_ = std::max(rounds_, static_cast<int32_t>(job.tokens.size()));
  }
  draft_s_ = SecondsSince(begin_us);
}

void Speculator::BeginForward(int32_t tokens, bool prefill) {
  tokens_ = tokens;
  prefill_ = prefill;
  forward_us_ = clock_->NowUs();
}

void Speculator::EndForward() {
  if (!prefill_) step_.Observe(tokens_, SecondsSince(forward_us_));
}

void Speculator::Observe(sched::SeqId id, int32_t accepted, bool rejected) {
  State& state = At(id);
  state.acceptance.Observe(accepted, rejected);
  overall_.Observe(accepted, rejected);
  const bool was_probe = state.steps_without >= state.probe_after;
  state.probe_after = was_probe ? std::min(2 * state.probe_after, kLastProbe) : kFirstProbe;
  state.steps_without = 0;
}

void Speculator::Learn(std::span<const ComputedRows> rows) {
  const TimeUs begin_us = clock_->NowUs();
  const bool in_step = drafter_->Learn(rows);
  if (!prefill_ && in_step) draft_.Observe(rounds_, draft_s_ + SecondsSince(begin_us));
}

void Speculator::Forget(sched::SeqId id) {
  states_.erase(id);
  drafter_->Forget(id);
}

double Speculator::SecondsSince(TimeUs begin_us) const {
  return static_cast<double>(clock_->NowUs() - begin_us) * 1e-6;
}

}  // namespace halfmoon::engine
