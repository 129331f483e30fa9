// SPDX-License-Identifier: Apache-2.0
#include "sched/sequence_table.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace halfmoon::sched {
namespace {

// Waiting sequences looked at in one step. Looking up a prefix costs a hash probe a block, which
// must stay small against a step; more than this seldom fit into one step's budget anyway.
constexpr size_t kMaxCandidates = 16;
// Steps for which an answer about loads is believed. What has gone since then is computed.
constexpr int64_t kLoadableSteps = 16;

size_t Index(int32_t i) { return static_cast<size_t>(i); }

}  // namespace

SequenceTable::SequenceTable(const TableOptions& options)
    : limits_(options.limits),
      prefix_cache_(options.prefix_cache),
      loads_(options.loads),
      note_sealed_(options.note_sealed),
      pool_(options.num_pages),
      index_(&pool_,
             {.block_size = options.limits.block_size, .track_changes = options.track_blocks}) {
  HM_CHECK(options.num_pages >= 1);
}

SequenceTable::~SequenceTable() {
  for (auto& [id, sequence] : sequences_) kv::ReleaseFromBack(&sequence.pages);
  for (auto& [id, pages] : leaving_) kv::ReleaseFromBack(&pages);
}

void SequenceTable::Add(SeqId id, NewSequence sequence) {
  HM_CHECK(!sequence.ids.empty(), "a sequence without tokens");
  HM_CHECK(sequences_.empty() || sequences_.rbegin()->first < id, "ids must grow");
  HM_CHECK(
      PagesFor(static_cast<int32_t>(sequence.ids.size()), limits_.block_size) <= pool_.num_pages(),
      std::to_string(sequence.ids.size()) + " tokens never fit");
  Sequence& added = sequences_[id];
  added.ids = std::move(sequence.ids);
  added.seed_ = sequence.seed;
  added.max_share_tokens = sequence.max_share_tokens;
  added.reuse_limit_tokens = sequence.reuse_limit_tokens;
  added.turn_ = {.priority = sequence.priority, .order_us = sequence.order_us, .id = id};
  added.max_chunk_us_ = sequence.max_chunk_us;
  turns_.insert(added.turn_);
}

void SequenceTable::Remove(SeqId id) {
  const auto it = sequences_.find(id);
  HM_CHECK(it != sequences_.end(), "no sequence " + std::to_string(static_cast<uint64_t>(id)));
  if (it->second.running) --num_running_;
  if (it->second.loading) Leave(id, &it->second);
  kv::ReleaseFromBack(&it->second.pages);
  turns_.erase(it->second.turn_);
  sequences_.erase(it);
}

// Pages behind computed_tokens, which somebody may be writing to.
void SequenceTable::Leave(SeqId id, Sequence* sequence) {
  std::vector<kv::PageRef>& pages = sequence->pages;
  const auto first =
      pages.begin() + static_cast<ptrdiff_t>(sequence->computed_tokens / limits_.block_size);
  leaving_[id] = {std::make_move_iterator(first), std::make_move_iterator(pages.end())};
  pages.erase(first, pages.end());
  sequence->page_table.resize(pages.size());
}

Plan SequenceTable::BeginStep() {
  Plan plan = MakePlan(MakeState());
  for (SeqId id : plan.preempt) Preempt(&At(id));
  // All hits are held before any page is taken, so that nothing found is evicted in between.
  for (SeqId id : plan.admit) Admit(&At(id));
  for (const Load& load : plan.loads) {
    Sequence& sequence = At(load.id);
    sequence.loading = true;
    TakePages(&sequence, load.pages);
  }
  for (const Share& share : plan.shares) TakePages(&At(share.id), share.new_pages);
  ++step_;
  return plan;
}

void SequenceTable::TakePages(Sequence* sequence, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    std::optional<kv::PageRef> page = index_.Allocate();
    HM_CHECK(page.has_value(), "the plan grants more pages than there are");
    sequence->page_table.push_back(kv::ToIndex(page->page()));
    sequence->pages.push_back(std::move(*page));
  }
}

std::span<const kv::BlockKey> SequenceTable::LoadingKeys(SeqId id) const {
  const Sequence& sequence = sequences_.at(id);
  HM_CHECK(sequence.loading);
  const auto first = Index(sequence.computed_tokens / limits_.block_size);
  return std::span(sequence.keys_).subspan(first, sequence.pages.size() - first);
}

void SequenceTable::EndLoad(SeqId id, int32_t blocks) {
  if (const auto gone = leaving_.find(id); gone != leaving_.end()) {
    kv::ReleaseFromBack(&gone->second);
    leaving_.erase(gone);
    return;
  }
  Sequence& sequence = At(id);
  HM_CHECK(blocks >= 0 && Index(blocks) <= LoadingKeys(id).size());
  if (Index(blocks) < LoadingKeys(id).size()) sequence.may_load_ = false;
  TakeLoaded(&sequence, blocks);
  Trim(&sequence);
}

void SequenceTable::AbandonLoad(SeqId id, int32_t blocks) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  HM_CHECK(blocks >= 0 && Index(blocks) <= LoadingKeys(id).size());
  it->second.may_load_ = false;
  TakeLoaded(&it->second, blocks);
  Leave(id, &it->second);
}

void SequenceTable::TakeLoaded(Sequence* sequence, int32_t blocks) {
  sequence->loading = false;
  sequence->computed_tokens += blocks * limits_.block_size;
  sequence->reused_tokens = sequence->computed_tokens;
  Seal(sequence);
}

std::span<const int32_t> SequenceTable::TokensOf(const Block& block) const {
  const size_t size = Index(limits_.block_size);
  return block.ids.subspan(block.number * size, size);
}

std::optional<kv::PageRef> SequenceTable::HoldBlock(const Block& block) {
  const kv::BlockKey& parent = block.number == 0 ? block.seed : block.keys[block.number - 1];
  return index_.Hold(parent, block.keys[block.number], TokensOf(block));
}

std::optional<kv::PageRef> SequenceTable::PublishBlock(const Block& block, kv::PageRef* page) {
  if (!prefix_cache_) return std::nullopt;
  const kv::BlockKey& parent = block.number == 0 ? block.seed : block.keys[block.number - 1];
  return index_.Insert(block.seed, parent, block.keys[block.number], TokensOf(block), page);
}

void SequenceTable::TakeSealed(std::vector<kv::BlockKey>* keys) {
  keys->insert(keys->end(), sealed_.begin(), sealed_.end());
  sealed_.clear();
}

void SequenceTable::CountComputed(std::span<const Share> shares) {
  for (const Share& share : shares) {
    // Gone when its request failed or was cancelled between plan and here.
    const auto it = sequences_.find(share.id);
    if (it == sequences_.end()) continue;
    it->second.computed_tokens += share.tokens;
    it->second.served_step_ = step_;
  }
}

void SequenceTable::AcceptDraft(SeqId id) {
  Sequence& sequence = At(id);
  HM_DCHECK(sequence.computed_tokens + 1 == static_cast<int32_t>(sequence.ids.size()));
  ++sequence.computed_tokens;
  HM_CHECK(PagesFor(sequence.computed_tokens, limits_.block_size) <=
               static_cast<int32_t>(sequence.pages.size()),
           "a guess without a page was accepted");
}

void SequenceTable::EndStep(std::span<const Share> shares) {
  for (const Share& share : shares) {
    const auto it = sequences_.find(share.id);
    if (it == sequences_.end()) continue;
    Seal(&it->second);
    Trim(&it->second);
  }
}

State SequenceTable::MakeState() {
  State state;
  state.limits = limits_;
  state.prompts = prompt_limit_;
  state.available_pages = pool_.num_free() + pool_.num_cached();
  state.running.reserve(Index(num_running_));
  // Sequences that will compute blocks which others could wait for, those that run in front.
  std::vector<const Sequence*> ahead;
  for (const Turn& turn : turns_) {
    const Sequence& sequence = At(turn.id);
    if (!sequence.running) continue;
    const auto is_private = [this](const kv::PageRef& page) {
      return pool_.num_holders(page.page()) == 1;
    };
    state.running.push_back(
        {.id = turn.id,
         .wanted_tokens = static_cast<int32_t>(sequence.ids.size()),
         .computed_tokens = sequence.computed_tokens,
         .pages = static_cast<int32_t>(sequence.pages.size()),
         .private_pages = static_cast<int32_t>(std::ranges::count_if(sequence.pages, is_private)),
         .max_share_tokens = sequence.max_share_tokens,
         .served_step = sequence.served_step_,
         .draft_tokens = sequence.draft_tokens,
         .paused = sequence.paused,
         .loading = sequence.loading,
         .priority = turn.priority,
         .order_us = turn.order_us,
         .max_chunk_us = sequence.max_chunk_us_});
    if (!sequence.paused) ahead.push_back(&sequence);
  }
  if (num_running_ == static_cast<int32_t>(sequences_.size())) return state;
  for (const Turn& turn : turns_) {
    Sequence& sequence = At(turn.id);
    if (sequence.running || sequence.paused) continue;
    if (state.waiting.size() == kMaxCandidates) break;
    WaitingSequence waiting = Describe(turn.id, &sequence);
    waiting.deferred = ShouldDefer(sequence, waiting.hit_pages, ahead);
    state.waiting.push_back(waiting);
    ahead.push_back(&sequence);
  }
  return state;
}

WaitingSequence SequenceTable::Describe(SeqId id, Sequence* sequence) {
  WaitingSequence waiting{.id = id,
                          .wanted_tokens = static_cast<int32_t>(sequence->ids.size()),
                          .max_share_tokens = sequence->max_share_tokens,
                          .paused = sequence->paused,
                          .priority = sequence->turn_.priority,
                          .order_us = sequence->turn_.order_us,
                          .max_chunk_us = sequence->max_chunk_us_};
  const int32_t blocks = ReusableBlocks(*sequence);
  ComputeKeys(sequence, blocks);
  const kv::PrefixHit hit =
      index_.Probe(sequence->seed_, std::span(sequence->keys_).first(Index(blocks)), sequence->ids);
  waiting.hit_pages = hit.blocks;
  waiting.hit_cached_pages = hit.cached_pages;
  waiting.load_pages = LoadablePages(id, sequence, hit.blocks, blocks);
  return waiting;
}

// Of the `blocks` that may be reused, those after the hit that can be loaded.
int32_t SequenceTable::LoadablePages(SeqId id, Sequence* sequence, int32_t hit_blocks,
                                     int32_t blocks) const {
  if (loads_ == nullptr || !sequence->may_load_ || hit_blocks >= blocks) return 0;
  if (sequence->loadable_from_block_ != hit_blocks ||
      step_ - sequence->loadable_step_ >= kLoadableSteps) {
    const std::span keys = std::span(sequence->keys_).first(Index(blocks));
    sequence->loadable_end_block_ =
        hit_blocks +
        loads_->Loadable(id, keys.subspan(Index(hit_blocks)), hit_blocks * limits_.block_size);
    sequence->loadable_from_block_ = hit_blocks;
    sequence->loadable_step_ = step_;
  }
  return std::min(blocks, sequence->loadable_end_block_) - hit_blocks;
}

// Two sequences with a common prefix that arrive together would both compute it. The later one
// waits while an earlier one is about to publish the very block it lacks. It does so only for a
// sequence that the scheduler serves no later than it would serve this one: the first that has more
// than one token to go, or a shorter one of no later priority.
bool SequenceTable::ShouldDefer(const Sequence& sequence, int32_t hit_blocks,
                                std::span<const Sequence* const> ahead) const {
  if (hit_blocks >= ReusableBlocks(sequence)) return false;
  const size_t next = Index(hit_blocks);
  const auto lacking = [](const Sequence& of) { return of.ids.size() - Index(of.computed_tokens); };
  const auto comes_later = [&](const Sequence& other) {
    return std::tuple(other.turn_.priority, lacking(other)) >
           std::tuple(sequence.turn_.priority, lacking(sequence));
  };
  const auto lacks_most = [&](const Sequence* other) { return lacking(*other) > 1; };
  const auto first = std::ranges::min_element(ahead, {}, [&](const Sequence* other) {
    return std::tuple(!lacks_most(other), other->turn_);
  });
  for (const Sequence* other : ahead) {
    // One that loads gets on whoever is served.
    if (!other->loading && !(other == *first && lacks_most(other)) && comes_later(*other)) continue;
    if (other->keys_.size() <= next || other->keys_[next] != sequence.keys_[next]) continue;
    if (!other->running) return true;
    // A running sequence that has computed the block without publishing it never will.
    if (other->publish_ && other->computed_tokens < (hit_blocks + 1) * limits_.block_size) {
      return true;
    }
  }
  return false;
}

int32_t SequenceTable::ReusableBlocks(const Sequence& sequence) const {
  if (!prefix_cache_) return 0;
  const int32_t tokens =
      std::min(static_cast<int32_t>(sequence.ids.size()) - 1, sequence.reuse_limit_tokens);
  return tokens / limits_.block_size;
}

void SequenceTable::ComputeKeys(Sequence* sequence, int32_t blocks) const {
  const size_t block = Index(limits_.block_size);
  while (sequence->keys_.size() < Index(blocks)) {
    const size_t i = sequence->keys_.size();
    const kv::BlockKey& previous = i == 0 ? sequence->seed_ : sequence->keys_[i - 1];
    sequence->keys_.push_back(
        kv::NextKey(previous, std::span<const int32_t>(sequence->ids).subspan(i * block, block)));
  }
}

void SequenceTable::Preempt(Sequence* sequence) {
  kv::ReleaseFromBack(&sequence->pages);
  sequence->page_table.clear();
  sequence->computed_tokens = 0;
  sequence->sealed_blocks_ = 0;
  sequence->running = false;
  --num_running_;
}

void SequenceTable::Admit(Sequence* sequence) {
  sequence->running = true;
  ++num_running_;
  sequence->publish_ = prefix_cache_;
  const int32_t blocks = ReusableBlocks(*sequence);
  sequence->pages =
      index_.Match(sequence->seed_, std::span(sequence->keys_).first(Index(blocks)), sequence->ids);
  for (const kv::PageRef& page : sequence->pages) {
    sequence->page_table.push_back(kv::ToIndex(page.page()));
  }
  sequence->sealed_blocks_ = static_cast<int32_t>(sequence->pages.size());
  sequence->computed_tokens = sequence->sealed_blocks_ * limits_.block_size;
  sequence->reused_tokens = sequence->computed_tokens;
}

void SequenceTable::Seal(Sequence* sequence) {
  const int32_t full = sequence->computed_tokens / limits_.block_size;
  if (!sequence->publish_ || full == sequence->sealed_blocks_) return;
  ComputeKeys(sequence, full);
  const size_t block = Index(limits_.block_size);
  while (sequence->publish_ && sequence->sealed_blocks_ < full) {
    const size_t i = Index(sequence->sealed_blocks_);
    std::optional<kv::PageRef> page = index_.Insert(
        sequence->seed_, i == 0 ? sequence->seed_ : sequence->keys_[i - 1], sequence->keys_[i],
        std::span<const int32_t>(sequence->ids).subspan(i * block, block), &sequence->pages[i]);
    if (!page.has_value()) {
      sequence->publish_ = false;
      return;
    }
    sequence->page_table[i] = kv::ToIndex(page->page());
    sequence->pages[i] = std::move(*page);
    ++sequence->sealed_blocks_;
    if (note_sealed_) sealed_.push_back(sequence->keys_[i]);
  }
}

void SequenceTable::Trim(Sequence* sequence) const {
  const size_t used = Index(PagesFor(sequence->computed_tokens, limits_.block_size));
  while (sequence->pages.size() > used) {
    sequence->pages.pop_back();
    sequence->page_table.pop_back();
  }
}

}  // namespace halfmoon::sched
