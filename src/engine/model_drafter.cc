// SPDX-License-Identifier: Apache-2.0
#include "engine/model_drafter.h"

#include <algorithm>
#include <climits>
#include <limits>
#include <string>
#include <utility>

namespace halfmoon::engine {

Result<std::unique_ptr<ModelDrafter>> ModelDrafter::Create(model::Model* draft,
                                                           const Options& options) {
  const size_t page_bytes = draft->kv_layout().page_bytes();
  const size_t num_pages = std::min(options.kv_bytes / page_bytes, static_cast<size_t>(INT32_MAX));
  if (num_pages == 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "the KV budget of the draft model, " + std::to_string(options.kv_bytes) +
                     " bytes, does not hold one page of " + std::to_string(page_bytes));
  }
  const model::LoadOptions& load = draft->options();
  if (load.max_sequences < options.max_sequences || load.max_step_tokens < options.max_sequences) {
    return Error(ErrorCode::kInvalidArgument,
                 "the draft model was loaded for " +
                     std::to_string(std::min(load.max_sequences, load.max_step_tokens)) +
                     " sequences in a step, the engine runs " +
                     std::to_string(options.max_sequences));
  }
  HM_ASSIGN(store::PageMemory memory,
            store::PageMemory::Create(static_cast<int32_t>(num_pages), page_bytes));
  return std::unique_ptr<ModelDrafter>(
      new ModelDrafter(draft, options, static_cast<int32_t>(num_pages), std::move(memory)));
}

ModelDrafter::ModelDrafter(model::Model* draft, const Options& options, int32_t num_pages,
                           store::PageMemory memory)
    : draft_(draft),
      options_(options),
      block_size_(draft->kv_layout().block_size),
      sampler_(options.vocab_size),
      memory_(std::move(memory)),
      pool_(num_pages) {
  if (draft->vocab_size() < options.vocab_size) {
    padded_.resize(static_cast<size_t>(options.vocab_size),
                   -std::numeric_limits<float>::infinity());
  }
}

ModelDrafter::~ModelDrafter() = default;

void ModelDrafter::Propose(std::span<DraftJob> jobs) {
  ++turn_;
  open_.clear();
  // Catching up is Learn's work; here is done what a step of guesses leaves behind, and a little
  // more where there is room.
  int32_t budget = std::max(options_.chunk_tokens, 2 * options_.max_sequences);
  budget = std::min(budget, draft_->options().max_step_tokens);
  auto left = static_cast<int32_t>(jobs.size());
  for (DraftJob& job : jobs) {
    --left;
    const size_t needed = job.ids.size() + static_cast<size_t>(job.max_tokens) - 1;
    if (needed > static_cast<size_t>(draft_->max_context())) continue;
    Mirror* mirror = Sync(job.id, job.ids);
    const std::span<const int32_t> lacking = job.ids.subspan(mirror->ids.size());
    // Each of those behind it can still have one.
    if (static_cast<int32_t>(lacking.size()) > budget - left) continue;
    if (!Known(lacking) || !Reserve(mirror, needed)) continue;
    budget -= static_cast<int32_t>(lacking.size());
    job.tokens.reserve(static_cast<size_t>(job.max_tokens));
    Add(mirror, lacking, model::LogitsMode::kLast);
    open_.push_back({.job = &job, .mirror = mirror});
  }
  while (!open_.empty()) {
    if (!Compute()) {
      open_.clear();
      return;
    }
    TakeGuesses();
    for (const Open& open : open_) {
      Add(open.mirror, std::span(open.job->tokens).last(1), model::LogitsMode::kLast);
    }
  }
}

// From the rows just computed; whoever has all its guesses then leaves open_.
void ModelDrafter::TakeGuesses() {
  size_t kept = 0;
  for (size_t row = 0; row < open_.size(); ++row) {
    DraftJob& job = *open_[row].job;
    const auto position = static_cast<int64_t>(job.ids.size() + job.tokens.size());
    const Result<int32_t> token =
        sampler_.Choose(LogitsOf(row), *job.sampling, *job.history, {}, position);
    if (!token.ok()) continue;
    job.tokens.push_back(*token);
    if (job.tokens.size() < static_cast<size_t>(job.max_tokens)) open_[kept++] = open_[row];
  }
  open_.resize(kept);
}

std::span<const float> ModelDrafter::LogitsOf(size_t row) {
  const auto have = static_cast<size_t>(draft_->vocab_size());
  const std::span<const float> logits = draft_->logits().subspan(row * have, have);
  if (padded_.empty()) return logits.first(static_cast<size_t>(options_.vocab_size));
  std::ranges::copy(logits, padded_.begin());
  return padded_;
}

// Rows of padding may be more in the model that is guessed for, and a client may send such ids.
bool ModelDrafter::Known(std::span<const int32_t> ids) const {
  return padded_.empty() ||
         std::ranges::all_of(ids, [this](int32_t id) { return id < draft_->vocab_size(); });
}

bool ModelDrafter::Learn(std::span<const ComputedRows> rows) {
  ++turn_;
  // A prompt's share of the draft model's time is what it costs there, which is the smaller one.
  int32_t budget = 0;
  for (const ComputedRows& computed : rows) budget += computed.count;
  budget = std::min(std::max(budget, options_.chunk_tokens), draft_->options().max_step_tokens);
  for (const ComputedRows& computed : rows) {
    if (!computed.guess_next) continue;
    if (computed.ids.size() > static_cast<size_t>(draft_->max_context())) continue;
    Mirror* mirror = Sync(computed.id, computed.ids);
    // The last token's turn comes with the guesses, for its logits; so does another that the last
    // guesses may have left over.
    const size_t lacking = computed.ids.size() - mirror->ids.size();
    if (lacking <= 2) continue;
    const size_t count = std::min(lacking - 1, static_cast<size_t>(budget));
    const std::span<const int32_t> ids = computed.ids.subspan(mirror->ids.size(), count);
    if (ids.empty() || !Known(ids) || !Reserve(mirror, mirror->ids.size() + count)) continue;
    budget -= static_cast<int32_t>(count);
    Add(mirror, ids, model::LogitsMode::kNone);
  }
  const bool in_step = chunks_.empty();
  (void)Compute();  // What failed is tried again when guesses are asked for.
  return in_step;
}

void ModelDrafter::Forget(sched::SeqId id) { mirrors_.erase(id); }

// Forgets guesses that did not come true.
ModelDrafter::Mirror* ModelDrafter::Sync(sched::SeqId id, std::span<const int32_t> ids) {
  Mirror& mirror = mirrors_[id];
  mirror.used = turn_;
  // The last token is to be computed in any case: its logits are wanted.
  const size_t most = std::min(mirror.ids.size(), ids.size() - 1);
  while (mirror.known < most && mirror.ids[mirror.known] == ids[mirror.known]) ++mirror.known;
  mirror.ids.resize(mirror.known);
  return &mirror;
}

// Pages for so many tokens, if need be those of sequences that this turn has not asked for.
bool ModelDrafter::Reserve(Mirror* mirror, size_t tokens) {
  const auto block = static_cast<size_t>(block_size_);
  while (mirror->pages.size() * block < tokens) {
    std::optional<kv::PageRef> page = pool_.TryAllocate();
    if (!page.has_value()) {
      if (!DropOldest()) return false;
      continue;
    }
    mirror->page_table.push_back(kv::ToIndex(page->page()));
    mirror->pages.push_back(std::move(*page));
  }
  return true;
}

bool ModelDrafter::DropOldest() {
  Mirror* oldest = nullptr;
  for (auto& [id, mirror] : mirrors_) {
    if (mirror.used == turn_ || mirror.pages.empty()) continue;
    if (oldest == nullptr || mirror.used < oldest->used) oldest = &mirror;
  }
  if (oldest == nullptr) return false;
  *oldest = {.used = oldest->used};
  return true;
}

void ModelDrafter::Add(Mirror* mirror, std::span<const int32_t> ids, model::LogitsMode logits) {
  pieces_.push_back({.mirror = mirror, .ids = ids});
  chunks_.push_back({.ids = ids,
                     .start = static_cast<int32_t>(mirror->ids.size()),
                     .kv = {.base = memory_.base(), .page_table = mirror->page_table},
                     .logits = logits});
}

// False where weights could not be read: then nothing counts as computed, and there is no guess.
bool ModelDrafter::Compute() {
  const bool computed = chunks_.empty() || draft_->Forward(chunks_).ok();
  for (const Piece& piece : pieces_) {
    if (!computed) break;
    piece.mirror->ids.insert(piece.mirror->ids.end(), piece.ids.begin(), piece.ids.end());
  }
  pieces_.clear();
  chunks_.clear();
  return computed;
}

}  // namespace halfmoon::engine
