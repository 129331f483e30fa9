// SPDX-License-Identifier: Apache-2.0
#include "sched/scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "base/check.h"

namespace halfmoon::sched {
namespace {

struct Entry {
  RunningSequence sequence;
  bool admitted = false;  // in this plan
  bool gone = false;      // preempted in this plan
  int32_t share = 0;
  int32_t drafts = 0;
  int32_t new_pages = 0;

  int32_t lacking_tokens() const { return sequence.wanted_tokens - sequence.computed_tokens; }
  int32_t most_tokens() const {
    return sequence.max_share_tokens == 0 ? lacking_tokens()
                                          : std::min(lacking_tokens(), sequence.max_share_tokens);
  }
};

class Planner {
 public:
  explicit Planner(const State& state)
      : limits_(state.limits), prompts_(state.prompts), available_(state.available_pages) {
    entries_.reserve(static_cast<size_t>(limits_.max_running) + state.running.size());
    for (const RunningSequence& sequence : state.running) {
      HM_DCHECK(
          sequence.computed_tokens < sequence.wanted_tokens,
          "nothing to compute for sequence " + std::to_string(static_cast<uint64_t>(sequence.id)));
      entries_.push_back({.sequence = sequence});
      missing_ += MissingPages(sequence);
    }
    live_ = static_cast<int32_t>(entries_.size());
  }

  void Admit(const std::vector<WaitingSequence>& waiting) {
    std::vector<WaitingSequence> in_order = waiting;
    std::ranges::sort(in_order, {}, &WaitingSequence::turn);
    bool full = false;
    for (const WaitingSequence& next : in_order) {
      if (next.paused || next.deferred) continue;
      ++plan_.prompts;
      full = full || !MakeRoom(next);
      if (full) continue;  // nobody overtakes
      RunningSequence sequence{.id = next.id,
                               .wanted_tokens = next.wanted_tokens,
                               .computed_tokens = next.hit_pages * limits_.block_size,
                               .pages = next.hit_pages + next.load_pages,
                               .private_pages = next.hit_cached_pages + next.load_pages,
                               .max_share_tokens = next.max_share_tokens,
                               .loading = next.load_pages > 0,
                               .priority = next.priority,
                               .order_us = next.order_us,
                               .max_chunk_us = next.max_chunk_us};
      available_ -= HitCost(next, !plan_.preempt.empty()) + next.load_pages;
      missing_ += MissingPages(sequence);
      ++live_;
      --plan_.prompts;  // counted with the running ones
      entries_.push_back({.sequence = sequence, .admitted = true});
      plan_.admit.push_back(next.id);
      if (next.load_pages > 0) plan_.loads.push_back({.id = next.id, .pages = next.load_pages});
    }
    std::ranges::sort(entries_, {}, [](const Entry& entry) { return entry.sequence.turn(); });
  }

  void DivideBudget() {
    int32_t budget = limits_.step_tokens;
    std::vector<Entry*> ready;
    std::vector<Entry*> prefills;
    for (Entry& entry : entries_) {
      if (entry.gone || entry.sequence.paused || entry.sequence.loading) continue;
      (entry.lacking_tokens() == 1 ? ready : prefills).push_back(&entry);
    }
    plan_.prompts += static_cast<int32_t>(prefills.size());
    std::ranges::sort(ready, {}, [](const Entry* entry) {
      return std::tuple(entry->sequence.served_step, entry->sequence.turn());
    });
    for (Entry* entry : ready) {
      if (budget == 0) return;
      entry->share = 1;
      --budget;
    }
    if (prefills.empty() || budget == 0) return;
    if (ready.empty()) {
      DivideAmongPrompts(prefills, {.tokens = budget, .alone = true});
    } else if (!prompts_.hold) {
      PromptBudget beside{.tokens = budget};
      if (prompts_.most_us > 0.0 && prompts_.cost.token_us > 0.0) {
        beside.us = prompts_.most_us - prompts_.cost.fixed_us;
      }
      DivideAmongPrompts(prefills, beside);
    }
  }

  void GrantPages() {
    for (Entry& entry : entries_) {
      if (entry.gone || entry.share == 0) continue;
      const int32_t needed =
          PagesFor(entry.sequence.computed_tokens + entry.share, limits_.block_size) -
          entry.sequence.pages;
      while (needed > available_) {
        Entry* victim = FindVictim(&entry);
        if (victim == nullptr) break;
        Preempt(victim);
      }
      entry.new_pages = std::min(needed, available_);
      available_ -= entry.new_pages;
      const int32_t room = (entry.sequence.pages + entry.new_pages) * limits_.block_size -
                           entry.sequence.computed_tokens;
      entry.share = std::min(entry.share, room);
    }
  }

  void GrantDrafts() {
    int32_t budget = limits_.step_tokens;
    std::vector<Entry*> guessing;
    for (Entry& entry : entries_) {
      if (entry.gone) continue;
      budget -= entry.share;
      if (entry.share == 1 && entry.lacking_tokens() == 1 && entry.sequence.draft_tokens > 0) {
        guessing.push_back(&entry);
      }
    }
    budget = std::min(budget, limits_.draft_tokens);
    for (bool granted = true; granted;) {
      granted = false;
      for (Entry* entry : guessing) {
        if (budget == 0) return;
        if (!GrantDraft(entry)) continue;
        granted = true;
        --budget;
      }
    }
  }

  Plan Take() {
    for (const Entry& entry : entries_) {
      if (entry.gone || entry.share == 0) continue;
      if (entry.lacking_tokens() == 1) {
        ++plan_.decoding;
      } else {
        plan_.prompt_tokens += entry.share;
      }
      plan_.shares.push_back({.id = entry.sequence.id,
                              .tokens = entry.share,
                              .draft_tokens = entry.drafts,
                              .new_pages = entry.new_pages});
    }
    return std::move(plan_);
  }

 private:
  // What a step has left for prompts.
  struct PromptBudget {
    int32_t tokens = 0;
    std::optional<double> us;  // none: no limit
    bool alone = false;        // nobody decodes
  };

  void DivideAmongPrompts(std::vector<Entry*>& prompts, PromptBudget budget) const {
    const auto give = [&](Entry* entry, const PromptBudget& most) {
      const int32_t start = entry->sequence.computed_tokens + entry->share;
      int32_t tokens = std::min(most.tokens, entry->most_tokens() - entry->share);
      if (!budget.alone) {
        tokens = std::min(tokens, MostOfChunk(entry->sequence) - entry->share);
      }
      if (most.us.has_value()) {
        tokens = std::min(tokens, prompts_.cost.TokensWithin(*most.us, start));
        *budget.us -= prompts_.cost.Us(tokens, start);
      }
      entry->share += tokens;
      budget.tokens -= tokens;
    };
    Entry* earliest = prompts.front();  // by turn
    give(earliest, {.tokens = (budget.tokens + 1) / 2,
                    .us = prompts.size() > 1 && budget.us ? *budget.us / 2 : budget.us});
    std::ranges::sort(prompts, {}, [](const Entry* entry) {
      return std::tuple(entry->sequence.priority, entry->lacking_tokens(), entry->sequence.turn());
    });
    for (Entry* entry : prompts) {
      if (entry != earliest) give(entry, budget);
    }
    give(earliest, budget);
    const auto has_none = [](const Entry* entry) { return entry->share == 0; };
    // However dear tokens are: whose turn it is gets on.
    if (std::ranges::all_of(prompts, has_none)) earliest->share = 1;
  }

  // Tokens of its prompt that it may compute beside others, by what it was given itself.
  int32_t MostOfChunk(const RunningSequence& sequence) const {
    if (sequence.max_chunk_us <= 0.0 || prompts_.cost.token_us <= 0.0) return INT32_MAX;
    return prompts_.cost.TokensWithin(sequence.max_chunk_us - prompts_.cost.fixed_us,
                                      sequence.computed_tokens);
  }

  int32_t MissingPages(const RunningSequence& sequence) const {
    return std::max(0, PagesFor(sequence.wanted_tokens, limits_.block_size) - sequence.pages);
  }

  // Available pages that holding the hit of `next` takes away. A page that only a preempted
  // sequence held has been counted as available, so once there is one, any page of the hit may be
  // such.
  static int32_t HitCost(const WaitingSequence& next, bool after_preemption) {
    return after_preemption ? next.hit_pages : next.hit_cached_pages;
  }

  // Whether `next` can be admitted, where needed by preempting paused sequences, latest first.
  bool MakeRoom(const WaitingSequence& next) {
    int32_t available = available_;
    int32_t missing = missing_;
    int32_t live = live_;
    std::vector<Entry*> victims;
    const auto fits = [&] {
      const int32_t needed = PagesFor(next.wanted_tokens, limits_.block_size) - next.hit_pages +
                             HitCost(next, !victims.empty() || !plan_.preempt.empty());
      return live < limits_.max_running && available - missing >= needed + live;
    };
    for (auto it = entries_.rbegin(); it != entries_.rend() && !fits(); ++it) {
      if (!it->sequence.paused || it->sequence.loading || it->gone) continue;
      available += it->sequence.private_pages;
      missing -= MissingPages(it->sequence);
      --live;
      victims.push_back(&*it);
    }
    if (!fits()) return false;
    for (Entry* victim : victims) Preempt(victim);
    return true;
  }

  // Whom `entry` may take pages from: a paused sequence, else one whose turn is later; latest
  // first. A plan that admits has granted no page yet and needs no victim for those it admitted.
  Entry* FindVictim(const Entry* entry) {
    for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
      if (it->sequence.paused && !it->sequence.loading && !it->gone && !it->admitted) return &*it;
    }
    Entry& last = *std::find_if(entries_.rbegin(), entries_.rend(), [entry](const Entry& other) {
      return &other == entry || (!other.gone && !other.admitted && !other.sequence.loading);
    });
    return &last == entry ? nullptr : &last;
  }

  // One more guess, where it wants one and there is a slot for it.
  bool GrantDraft(Entry* entry) {
    if (entry->drafts == entry->sequence.draft_tokens) return false;
    const int32_t tokens = entry->sequence.computed_tokens + entry->share + entry->drafts + 1;
    if (PagesFor(tokens, limits_.block_size) > entry->sequence.pages + entry->new_pages) {
      if (available_ == 0) return false;
      --available_;
      ++entry->new_pages;
    }
    ++entry->drafts;
    return true;
  }

  void Preempt(Entry* victim) {
    victim->gone = true;
    available_ += victim->sequence.private_pages;
    missing_ -= MissingPages(victim->sequence);
    --live_;
    plan_.preempt.push_back(victim->sequence.id);
  }

  const Limits limits_;
  const PromptLimit prompts_;
  int32_t available_;
  int32_t missing_ = 0;  // pages that running sequences lack for their wanted tokens
  int32_t live_ = 0;
  std::vector<Entry> entries_;  // by turn once Admit has run
  Plan plan_;
};

}  // namespace

double PromptCost::Us(int32_t tokens, int32_t start) const {
  const double n = tokens;
  return n * (token_us + position_us * (start + (n + 1.0) / 2.0));
}

int32_t PromptCost::TokensWithin(double us, int32_t start) const {
  HM_DCHECK(token_us > 0.0);
  if (us <= 0.0) return 0;
  // Us(n, start) = square * n^2 + linear * n; the form of the root that is exact for square = 0.
  const double square = position_us / 2.0;
  const double linear = token_us + position_us * (start + 0.5);
  const double tokens = 2.0 * us / (linear + std::sqrt(linear * linear + 4.0 * square * us));
  return static_cast<int32_t>(std::min(tokens, static_cast<double>(INT32_MAX)));
}

Plan MakePlan(const State& state) {
  HM_CHECK(state.limits.max_running >= 1);
  HM_CHECK(state.limits.step_tokens >= state.limits.max_running,
           std::to_string(state.limits.step_tokens) + " tokens for " +
               std::to_string(state.limits.max_running) + " sequences");
  HM_CHECK(static_cast<int32_t>(state.running.size()) <= state.limits.max_running);
  Planner planner(state);
  planner.Admit(state.waiting);
  planner.DivideBudget();
  planner.GrantPages();
  planner.GrantDrafts();
  return planner.Take();
}

}  // namespace halfmoon::sched
