// SPDX-License-Identifier: Apache-2.0
// The step loop's part in speculative decoding: who may guess how far, and what became of it.
#include <algorithm>

#include "engine/step_loop.h"

namespace halfmoon::engine {

// guesses_[i] are those of shares[i] afterwards.
void StepLoop::ProposeGuesses(const std::vector<sched::Share>& shares) {
  guesses_.resize(shares.size());
  for (std::vector<int32_t>& guesses : guesses_) guesses.clear();
  if (speculator_ == nullptr) return;
  jobs_.clear();
  for (const sched::Share& share : shares) {
    if (share.draft_tokens == 0) continue;
    const Active& active = active_.at(share.id);
    const sched::Sequence& sequence = table_.At(share.id);
    jobs_.push_back({.id = share.id,
                     .ids = sequence.ids,
                     .sampling = &active.request.sampling,
                     .history = &active.history,
                     .kv = {.base = memory_.base(), .page_table = sequence.page_table},
                     .max_tokens = share.draft_tokens});
  }
  speculator_->Propose(jobs_);
  size_t job = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    if (shares[i].draft_tokens > 0) guesses_[i] = std::move(jobs_[job++].tokens);
  }
}

void StepLoop::CountGuesses(sched::SeqId id, const GuessCounts& counts) {
  ++stats_.drafts;
  stats_.draft_tokens += static_cast<uint64_t>(counts.made);
  stats_.accepted_draft_tokens += static_cast<uint64_t>(counts.accepted);
  if (counts.checked > 0) {
    speculator_->Observe(id, counts.accepted, counts.accepted < counts.checked);
  }
}

// How far each sequence may guess in the next step. Where it ends before the guesses do, they would
// be in vain.
void StepLoop::AskForGuesses() {
  candidates_.clear();
  for (const auto& [id, active] : active_) {
    const sched::Sequence& sequence = table_.At(id);
    if (!sequence.running || sequence.paused || active.ended) continue;
    const auto known = static_cast<int32_t>(sequence.ids.size());
    const int32_t room =
        std::min(active.request.max_tokens - active.generated, max_request_tokens_ - known);
    candidates_.push_back({.id = id,
                           .lacking_tokens = known - sequence.computed_tokens,
                           .most = std::max(0, room - 1)});
  }
  speculator_->ChooseDepths(candidates_);
  for (const Speculator::Candidate& candidate : candidates_) {
    table_.At(candidate.id).draft_tokens = candidate.depth;
  }
}

// A drafter that keeps KV of its own in the pages writes it here, for blocks that are about to be
// published, those of requests that have ended included.
void StepLoop::LearnFromStep(const std::vector<sched::Share>& shares) {
  computed_.clear();
  int32_t row = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const sched::SeqId id = shares[i].id;
    const sched::Sequence& sequence = table_.At(id);
    const Active& active = active_.at(id);
    computed_.push_back({.id = id,
                         .ids = sequence.ids,
                         .start = chunks_[i].start,
                         .count = sequence.computed_tokens - chunks_[i].start,
                         .first_row = row,
                         .sampling = &active.request.sampling,
                         .history = &active.history,
                         .kv = {.base = memory_.base(), .page_table = sequence.page_table},
                         .guess_next = !active.ended && sequence.draft_tokens > 0});
    row += static_cast<int32_t>(chunks_[i].ids.size());
  }
  speculator_->Learn(computed_);
}

}  // namespace halfmoon::engine
