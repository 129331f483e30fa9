// SPDX-License-Identifier: Apache-2.0
// Runs a SequenceTable without a model, for tests: a step computes nothing but a running hash, and
// each step checks what must hold whatever the policy is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sched/sequence_table.h"
#include "sched/time_share.h"

namespace halfmoon::sched {

/// One step of a simulated schedule.
struct SimulatedStep {
  Plan plan;
  double us = 0.0;  ///< what it takes, where costs were given
  std::vector<SeqId> finished;
  int32_t accepted_drafts = 0;
};

/// What steps cost in a simulation, and how their time is shared.
struct SimulatedCosts {
  ShareOptions share;
  double decode_us = 0.0;      ///< of a step that decodes
  double decode_row_us = 0.0;  ///< and for each sequence that does
  PromptCost prompt;           ///< what prompt tokens add
};

/// What a simulated sequence guesses in each step.
struct Guesses {
  int32_t wanted = 0;
  int32_t right = 0;  ///< leading ones that come true
};

/// What of a simulated sequence's prompt is kept elsewhere.
struct Stored {
  int32_t blocks = 0;    ///< leading ones that are said to be there
  int32_t arriving = 0;  ///< of these, leading ones that are
  int32_t steps = 1;     ///< that a load takes
};

class ScheduleSimulator final : private BlockLoads {
 public:
  explicit ScheduleSimulator(const TableOptions& options)
      : options_(options),
        table_(WithLoads(options)),
        slots_(static_cast<size_t>(options.num_pages * options.limits.block_size)) {}

  /// Generates `output_tokens` >= 1 tokens after the prompt, a function of the tokens before them.
  void Add(SeqId id, std::vector<int32_t> prompt, int32_t output_tokens) {
    remaining_[id] = output_tokens;
    Turn& turn = turns_[id];
    turn.id = id;
    table_.Add(id, {.ids = std::move(prompt),
                    .seed = kv::SeedKey({.block_size = Block<uint32_t>()}),
                    .priority = turn.priority,
                    .order_us = turn.order_us});
  }
  void Cancel(SeqId id) {
    table_.Remove(id);
    remaining_.erase(id);
    guesses_.erase(id);
  }
  ScheduleSimulator(const ScheduleSimulator&) = delete;
  ScheduleSimulator& operator=(const ScheduleSimulator&) = delete;

  /// Of a sequence that comes next.
  void SetTurn(SeqId id, int64_t priority, int64_t order_us) {
    turns_[id] = {.priority = priority, .order_us = order_us};
  }
  /// Of a sequence that is there or comes next.
  void SetStored(SeqId id, const Stored& stored) { stored_[id] = stored; }
  void SetGuesses(SeqId id, const Guesses& guesses) { guesses_[id] = guesses; }
  void SetPaused(SeqId id, bool paused) { table_.At(id).paused = paused; }
  const std::map<SeqId, int32_t>& remaining() const { return remaining_; }
  SequenceTable& table() { return table_; }

  void SetCosts(const SimulatedCosts& costs) {
    costs_ = costs;
    share_.emplace(costs.share);
  }

  SimulatedStep Step() {
    SimulatedStep step;
    if (share_)
      table_.SetPromptLimit(share_->Limit(costs_.prompt, DecodeUs(std::max(1, decoding_))));
    EndLoads();
    for (const auto& [id, left] : remaining_) {
      // The last token is never computed, so a guess beyond it is of no use.
      table_.At(id).draft_tokens = std::min(guesses_[id].wanted, left - 1);
    }
    step.plan = table_.BeginStep();
    BeginLoads(step.plan);
    CheckPlan(step.plan);
    CountTime(&step);
    for (const Share& share : step.plan.shares) Compute(share);
    table_.CountComputed(step.plan.shares);
    for (const Share& share : step.plan.shares) Generate(share, &step);
    table_.EndStep(step.plan.shares);
    for (SeqId id : step.finished) Cancel(id);
    CheckMemory();
    return step;
  }

  /// The first thing that did not hold; empty when all did.
  const std::string& violation() const { return violation_; }

 private:
  // A load in flight: pages that somebody writes to.
  struct Flight {
    std::vector<int32_t> pages;
    std::vector<uint64_t> values;  // a token each
    int32_t arriving = 0;
    int32_t steps_left = 0;
  };

  TableOptions WithLoads(TableOptions options) {
    options.loads = this;
    return options;
  }

  int32_t Loadable(SeqId id, std::span<const kv::BlockKey> keys, int32_t start_tokens) override {
    const int32_t left = stored_[id].blocks - start_tokens / Block<int32_t>();
    return std::clamp(left, 0, static_cast<int32_t>(keys.size()));
  }

  void BeginLoads(const Plan& plan) {
    for (const Load& load : plan.loads) {
      const Sequence& sequence = table_.At(load.id);
      const auto first = static_cast<size_t>(sequence.computed_tokens) / Block<size_t>();
      Require(sequence.loading && sequence.pages.size() == first + static_cast<size_t>(load.pages),
              "pages of the load of " + Name(load.id));
      Require(table_.LoadingKeys(load.id).size() == static_cast<size_t>(load.pages),
              "keys of the load of " + Name(load.id));
      Flight& flight = flights_[load.id];
      flight.pages = {sequence.page_table.begin() + static_cast<ptrdiff_t>(first),
                      sequence.page_table.end()};
      const std::vector<uint64_t> chain = Chain(sequence.ids);
      const auto begin = chain.begin() + static_cast<ptrdiff_t>(first * Block<size_t>());
      flight.values = {begin,
                       begin + static_cast<ptrdiff_t>(flight.pages.size() * Block<size_t>())};
      const Stored& stored = stored_[load.id];
      flight.arriving = std::clamp(stored.arriving - static_cast<int32_t>(first), 0, load.pages);
      flight.steps_left = stored.steps;
    }
  }

  // Nobody else has a page that a load writes to, be its sequence gone or not.
  void EndLoads() {
    for (auto it = flights_.begin(); it != flights_.end();) {
      auto& [id, flight] = *it;
      for (size_t i = 0; i < flight.values.size(); ++i) {
        const int32_t page = flight.pages[i / Block<size_t>()];
        Require(table_.pool().num_holders(kv::PageId{page}) == 1,
                Name(id) + " loads into a page that is not its own");
        const bool arrives = static_cast<int32_t>(i / Block<size_t>()) < flight.arriving;
        slots_[static_cast<size_t>(page) * Block<size_t>() + i % Block<size_t>()] =
            arrives && flight.steps_left <= 1 ? flight.values[i] : 0xBAD;
      }
      if (--flight.steps_left > 0) {
        ++it;
        continue;
      }
      table_.EndLoad(id, flight.arriving);
      it = flights_.erase(it);
    }
  }

  template <typename T>
  T Block() const {
    return static_cast<T>(options_.limits.block_size);
  }
  static int32_t NextToken(const std::vector<int32_t>& ids) {
    return static_cast<int32_t>(Chain(ids).back() % 1000);
  }
  static std::string Name(SeqId id) { return std::to_string(static_cast<uint64_t>(id)); }

  // A value per position that depends on all tokens up to it, as KV does.
  static std::vector<uint64_t> Chain(const std::vector<int32_t>& ids) {
    std::vector<uint64_t> chain;
    uint64_t value = 1;
    for (int32_t id : ids) {
      value = (value ^ static_cast<uint64_t>(id + 1)) * 0x9E3779B97F4A7C15u;
      value ^= value >> 29;
      chain.push_back(value);
    }
    return chain;
  }

  uint64_t& Slot(const Sequence& sequence, int32_t position) {
    const int32_t page = sequence.page_table[static_cast<size_t>(position) / Block<size_t>()];
    return slots_[static_cast<size_t>(page) * Block<size_t>() +
                  static_cast<size_t>(position) % Block<size_t>()];
  }

  double DecodeUs(int32_t sequences) const {
    return sequences == 0 ? 0.0 : costs_.decode_us + costs_.decode_row_us * sequences;
  }

  // Before anything is computed: start positions are those that the step has.
  void CountTime(SimulatedStep* step) {
    if (!share_) return;
    const Plan& plan = step->plan;
    decoding_ = plan.decoding;
    const double decode_us = DecodeUs(plan.decoding);
    step->us = decode_us;
    if (plan.prompt_tokens > 0) step->us += costs_.prompt.fixed_us;
    for (const Share& share : plan.shares) {
      const Sequence& sequence = table_.At(share.id);
      if (static_cast<int32_t>(sequence.ids.size()) - sequence.computed_tokens == 1) continue;
      step->us += costs_.prompt.Us(share.tokens, sequence.computed_tokens);
    }
    share_->Count({.decoding = plan.decoding,
                   .prompts = plan.prompts,
                   .prompt_tokens = plan.prompt_tokens,
                   .decode_us = decode_us,
                   .step_us = step->us});
  }

  void Compute(const Share& share) {
    const Sequence& sequence = table_.At(share.id);
    std::vector<int32_t> ids = sequence.ids;
    for (int32_t i = 0; i < share.draft_tokens; ++i) {
      ids.push_back(NextToken(ids) + (i < guesses_[share.id].right ? 0 : 1));
    }
    const std::vector<uint64_t> chain = Chain(ids);
    const int32_t end = sequence.computed_tokens + share.tokens + share.draft_tokens;
    Require(end <= static_cast<int32_t>(sequence.page_table.size()) * Block<int32_t>(),
            "no page to write to for " + Name(share.id));
    for (int32_t p = sequence.computed_tokens; p < end && violation_.empty(); ++p) {
      const auto page = sequence.pages[static_cast<size_t>(p) / Block<size_t>()].page();
      Require(table_.pool().num_holders(page) == 1, Name(share.id) + " writes a shared page");
      Slot(sequence, p) = chain[static_cast<size_t>(p)];
    }
  }

  void Generate(const Share& share, SimulatedStep* step) {
    const Sequence& sequence = table_.At(share.id);
    if (sequence.computed_tokens < static_cast<int32_t>(sequence.ids.size())) return;
    const int32_t right = std::min(share.draft_tokens, guesses_[share.id].right);
    for (int32_t i = 0;; ++i) {
      table_.Append(share.id, NextToken(sequence.ids));
      if (--remaining_.at(share.id) == 0) {
        step->finished.push_back(share.id);
        return;
      }
      if (i == right) return;
      table_.AcceptDraft(share.id);
      ++step->accepted_drafts;
    }
  }

  void CheckPlan(const Plan& plan) {
    int32_t tokens = 0;
    int32_t drafts = 0;
    for (size_t i = 0; i < plan.shares.size(); ++i) {
      const Share& share = plan.shares[i];
      const Sequence& sequence = table_.At(share.id);
      tokens += share.tokens + share.draft_tokens;
      drafts += share.draft_tokens;
      Require(share.tokens >= 1, "an empty share for " + Name(share.id));
      Require(sequence.running && !sequence.paused && !sequence.loading,
              Name(share.id) + " may not run");
      Require(share.tokens <= static_cast<int32_t>(sequence.ids.size()) - sequence.computed_tokens,
              "too many tokens for " + Name(share.id));
      Require(i == 0 || turns_.at(plan.shares[i - 1].id) < turns_.at(share.id),
              "shares out of order");
    }
    Require(tokens <= options_.limits.step_tokens, "over the token budget");
    Require(drafts <= options_.limits.draft_tokens, "over the budget of guesses");
    Require(table_.num_running() <= options_.limits.max_running, "too many sequences");
    // The first that may run always makes progress, unless this step only made room for it, it
    // leaves its time to others that decode, or a load has the pages that it lacks.
    std::optional<Turn> first;
    for (const auto& [id, left] : remaining_) {
      const Sequence& sequence = table_.At(id);
      if (sequence.paused || !sequence.running || sequence.loading || !flights_.empty()) continue;
      if (!first || turns_.at(id) < *first) first = turns_.at(id);
    }
    if (!first) return;
    const bool served = std::ranges::any_of(
        plan.shares, [&first](const Share& share) { return share.id == first->id; });
    Require(served || !plan.preempt.empty() || (share_ && plan.decoding > 0),
            "the first, " + Name(first->id) + ", got nothing");
  }

  // Every page that a sequence counts on holds what the sequence itself would have computed, and no
  // page is held without reason.
  void CheckMemory() {
    std::map<int32_t, int32_t> holders;
    for (const auto& [id, left] : remaining_) {
      const Sequence& sequence = table_.At(id);
      const std::vector<uint64_t> chain = Chain(sequence.ids);
      Require(sequence.pages.size() == sequence.page_table.size(), "page table of " + Name(id));
      const auto loading =
          sequence.loading ? static_cast<int32_t>(flights_.at(id).pages.size()) : 0;
      Require(static_cast<int32_t>(sequence.pages.size()) ==
                  PagesFor(sequence.computed_tokens, Block<int32_t>()) + loading,
              Name(id) + " holds more or fewer pages than it uses");
      for (size_t i = 0; i < sequence.pages.size(); ++i) {
        Require(kv::ToIndex(sequence.pages[i].page()) == sequence.page_table[i],
                "page table of " + Name(id));
        ++holders[sequence.page_table[i]];
      }
      for (int32_t p = 0; p < sequence.computed_tokens && violation_.empty(); ++p) {
        Require(Slot(sequence, p) == chain[static_cast<size_t>(p)],
                "wrong KV at position " + std::to_string(p) + " of " + Name(id));
      }
    }
    for (const auto& [id, flight] : flights_) {
      if (remaining_.contains(id)) continue;
      for (int32_t page : flight.pages) ++holders[page];
    }
    const kv::PagePool& pool = table_.pool();
    Require(pool.num_in_use() == static_cast<int32_t>(holders.size()), "a page leaked");
    for (const auto& [page, count] : holders) {
      Require(pool.num_holders(kv::PageId{page}) == count, "a reference leaked");
    }
  }

  void Require(bool holds, const std::string& what) {
    if (!holds && violation_.empty()) violation_ = what;
  }

  const TableOptions options_;
  SequenceTable table_;
  std::map<SeqId, int32_t> remaining_;  // tokens still to generate
  std::map<SeqId, Turn> turns_;         // of all that ever came
  std::map<SeqId, Guesses> guesses_;
  std::map<SeqId, Stored> stored_;
  std::map<SeqId, Flight> flights_;
  std::optional<TimeShare> share_;  // none: steps cost nothing
  SimulatedCosts costs_;
  int32_t decoding_ = 0;         // in the last step
  std::vector<uint64_t> slots_;  // page memory: one value a token
  std::string violation_;
};

}  // namespace halfmoon::sched
