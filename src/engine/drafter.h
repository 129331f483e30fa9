// SPDX-License-Identifier: Apache-2.0
// Where guesses at the next tokens come from. A guess is only ever compared with the token that the
// model chooses itself, so a drafter may be as wrong as it likes: it costs time, never a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/sampler.h"
#include "kernels/paged_kv.h"
#include "sched/scheduler.h"

namespace halfmoon::engine {

/// A sequence to guess for.
struct DraftJob {
  sched::SeqId id{};
  std::span<const int32_t> ids;  ///< all tokens known; the last has not been computed
  const SamplingParams* sampling = nullptr;
  const TokenHistory* history = nullptr;
  kernels::PagedKv kv;          ///< pages for positions 0 .. ids.size() - 1 + max_tokens
  int32_t max_tokens = 0;       ///< most guesses, at least 1
  std::vector<int32_t> tokens;  ///< the answer: up to max_tokens, in order
};

/// Consecutive tokens of a sequence that a step has computed and that stay.
struct ComputedRows {
  sched::SeqId id{};
  std::span<const int32_t> ids;  ///< all tokens known
  int32_t start = 0;             ///< position of the first of them
  int32_t count = 0;             ///< at least 1
  int32_t first_row = 0;         ///< of the step's rows
  const SamplingParams* sampling = nullptr;
  const TokenHistory* history = nullptr;
  kernels::PagedKv kv;
  bool guess_next = false;  ///< the next step is likely to ask for guesses
};

/// Engine thread only.
class Drafter {
 public:
  virtual ~Drafter() = default;
  /// Guesses for all of `jobs`, which belong to the step that comes next. Ids are in range.
  virtual void Propose(std::span<DraftJob> jobs) = 0;
  /// After each step, before its blocks are published: what it computed. False where this meant
  /// catching up on earlier tokens, so that its time says nothing about later steps.
  virtual bool Learn(std::span<const ComputedRows> /*rows*/) { return true; }
  /// The sequence has ended.
  virtual void Forget(sched::SeqId /*id*/) {}
};

}  // namespace halfmoon::engine
