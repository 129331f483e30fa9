// SPDX-License-Identifier: Apache-2.0
// sched: decides what the next step computes. MakePlan is a pure function of the state it is given:
// no clock, no memory of earlier calls, no page ids, only counts. Server, scenario tests and
// simulator run the same code.
//
// There is no prefill or decode phase. A sequence has wanted tokens (their ids are known) and
// computed tokens (their KV is in pages); a step gives each a share of the token budget.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

namespace halfmoon::sched {

/// Sequences are numbered as they arrive: a smaller id arrived earlier.
enum class SeqId : uint64_t {};

/// Whose turn it is: smaller ones first.
struct Turn {
  int64_t priority = 0;
  int64_t order_us = 0;  ///< among those of a priority, on any one clock
  SeqId id{};            ///< among equals, as they arrived
  auto operator<=>(const Turn&) const = default;
};

struct Limits {
  int32_t step_tokens = 0;   ///< token budget of a step, at least max_running
  int32_t max_running = 0;   ///< sequences in a batch, at least 1
  int32_t block_size = 0;    ///< token slots of a page
  int32_t draft_tokens = 0;  ///< most guesses checked in one step, of all sequences together
};

/// A sequence that holds pages or may take part in the next step.
struct RunningSequence {
  SeqId id{};
  int32_t wanted_tokens = 0;
  int32_t computed_tokens = 0;  ///< below wanted_tokens
  int32_t pages = 0;            ///< held
  int32_t private_pages = 0;  ///< of these, pages nobody else holds: what a preemption brings back
  int32_t max_share_tokens =
      0;                     ///< most tokens it may get in one step; 0: as many as the budget has
  int64_t served_step = 0;   ///< step that last computed something for it
  int32_t draft_tokens = 0;  ///< guesses at what follows that it would like to have checked
  bool paused = false;       ///< its consumer is behind: computes nothing, but keeps its pages
  bool loading = false;  ///< its pages are being filled: computes nothing, and cannot give back any
  int64_t priority = 0;  ///< of its turn
  int64_t order_us = 0;  ///< of its turn
  double max_chunk_us = 0.0;  ///< most that its prompt may add to a step in which others decode; 0:
                              ///< what State::prompts says

  Turn turn() const { return {.priority = priority, .order_us = order_us, .id = id}; }
};

/// A sequence that holds nothing: new, or preempted.
struct WaitingSequence {
  SeqId id{};
  int32_t wanted_tokens = 0;
  int32_t hit_pages = 0;  ///< full pages the prefix index can serve, fewer than wanted_tokens
  int32_t hit_cached_pages = 0;  ///< of these, pages that nobody holds now
  int32_t load_pages = 0;  ///< full pages after these that can be loaded from elsewhere; the last
                           ///< wanted token is in none of them
  int32_t max_share_tokens = 0;  ///< as above
  bool paused = false;           ///< not admitted before its consumer has caught up
  bool deferred = false;  ///< another sequence is about to compute a block this one can then reuse
  int64_t priority = 0;   ///< as above
  int64_t order_us = 0;   ///< as above
  double max_chunk_us = 0.0;  ///< as above

  Turn turn() const { return {.priority = priority, .order_us = order_us, .id = id}; }
};

/// What tokens of prompts add to the time of a step, as measured by whoever computes.
struct PromptCost {
  double fixed_us = 0.0;     ///< of any number of them
  double token_us = 0.0;     ///< of each; 0: nothing is known yet
  double position_us = 0.0;  ///< of each and each position that it attends to

  /// Most tokens of a sequence that take at most `us` from position `start` on, fixed_us aside.
  /// Requires that something is known.
  int32_t TokensWithin(double us, int32_t start) const;
  /// What `tokens` of them take from position `start` on, fixed_us aside.
  double Us(int32_t tokens, int32_t start) const;
};

/// What prompts may take of a step in which others decode (time_share.h). Without those they may
/// take all of it.
struct PromptLimit {
  bool hold = false;     ///< nothing
  double most_us = 0.0;  ///< so much of its time, or a single token; 0: no limit
  PromptCost cost;
};

struct State {
  Limits limits;
  PromptLimit prompts;
  int32_t available_pages = 0;           ///< free, or cached and so free to evict
  std::vector<RunningSequence> running;  ///< any order
  std::vector<WaitingSequence> waiting;  ///< the first to be considered; any order
};

/// What one sequence computes in the step.
struct Share {
  SeqId id{};
  int32_t tokens = 0;        ///< wanted ones, at least 1
  int32_t draft_tokens = 0;  ///< guesses to compute after them
  int32_t new_pages = 0;     ///< to take before the step, those of the guesses included
};

/// Pages of an admitted sequence to be taken now and filled from elsewhere, after those of its hit.
struct Load {
  SeqId id{};
  int32_t pages = 0;  ///< at least 1
};

struct Plan {
  std::vector<SeqId>
      preempt;               ///< give back all their pages and wait, in this order, before all else
  std::vector<SeqId> admit;  ///< take their prefix hits, before any new page is taken
  std::vector<Load> loads;   ///< of sequences in `admit`; pages are taken after all prefix hits
  std::vector<Share> shares;  ///< in order of turns; never more than step_tokens together,
                              ///< guesses included
  int32_t decoding = 0;       ///< shares of sequences that lack one token
  int32_t prompt_tokens = 0;  ///< of the other shares together
  int32_t prompts = 0;  ///< sequences that lack more than one token, waiting ones included, but for
                        ///< those that wait for something else than their turn
};

/// Pages that hold `tokens` tokens.
constexpr int32_t PagesFor(int32_t tokens, int32_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

/// The rules, in order:
/// - Waiting sequences are admitted turn by turn, without any that have to wait being overtaken, as
///   soon as pages for all wanted tokens are there beyond what running sequences still lack for
///   theirs, with a page to spare for each of them to grow into. Paused sequences make room for it
///   when it does not fit otherwise.
/// - What it can load it gets pages for when it is admitted. While it loads it has no share and is
///   not preempted, since somebody writes to its pages.
/// - Sequences that lack one token go first, those served longest ago in front.
/// - Beside them others get what State::prompts leaves them, which may be nothing.
/// - Of the remaining budget the first of the others gets half, and the shortest of each priority
///   get the rest: a long prompt neither starves nor holds up short ones.
/// - Pages are granted turn by turn. Where they run out, paused sequences are preempted, then those
///   whose turn is later, latest first. A sequence that still lacks pages computes what fits.
/// - Guesses get what is left after all that of the budget and of the pages: nobody is preempted,
///   admitted later or given less because of them. Only sequences that lack one token have any
///   checked; each gets its first guess before one gets a second.
/// So the first sequence that is neither paused nor loading always makes progress, or is held
/// for others that do, or waits for pages until a load has ended.
///
/// Requires ids that are unique, step_tokens >= max_running >= running.size(), and pages enough in
/// all for each sequence alone.
Plan MakePlan(const State& state);

}  // namespace halfmoon::sched
