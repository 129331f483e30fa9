// SPDX-License-Identifier: Apache-2.0
#include "engine/mtp_drafter.h"

#include <algorithm>

namespace halfmoon::engine {

MtpDrafter::MtpDrafter(model::Model* model)
    : model_(model),
      hidden_dim_(static_cast<size_t>(model->description().hidden_dim)),
      sampler_(static_cast<int32_t>(model->vocab_size())) {}

bool MtpDrafter::Learn(std::span<const ComputedRows> rows) {
  chunks_.clear();
  for (const ComputedRows& computed : rows) {
    const auto known = static_cast<int32_t>(computed.ids.size());
    const int32_t count = std::min(computed.count, known - 1 - computed.start);
    if (count <= 0) continue;
    const auto next = static_cast<size_t>(computed.start) + 1;
    const auto num_rows = static_cast<size_t>(count);
    const bool reaches_end = next + num_rows == computed.ids.size();
    chunks_.push_back(
        {.next_ids = computed.ids.subspan(next, num_rows),
         .hidden = model_->row_hidden().subspan(
             static_cast<size_t>(computed.first_row) * hidden_dim_, num_rows * hidden_dim_),
         .start = computed.start,
         .kv = computed.kv,
         .logits = reaches_end && computed.guess_next ? model::LogitsMode::kLast
                                                      : model::LogitsMode::kNone});
  }
  if (chunks_.empty()) return true;
  // Where its weights could not be read there is no guess. What its KV lacks then only makes later
  // guesses worse.
  if (!model_->ForwardMtp(chunks_).ok()) return true;

  const auto vocab = static_cast<size_t>(model_->vocab_size());
  size_t row = 0;
  for (const ComputedRows& computed : rows) {
    const auto known = static_cast<int32_t>(computed.ids.size());
    const int32_t end = computed.start + computed.count;
    if (end + 1 != known || !computed.guess_next) continue;
    const std::span<const float> hidden =
        model_->final_hidden().subspan(row * hidden_dim_, hidden_dim_);
    const Result<int32_t> token = sampler_.Choose(model_->logits().subspan(row * vocab, vocab),
                                                  *computed.sampling, *computed.history, {}, known);
    ++row;
    if (!token.ok()) continue;  // no guess; the model's own logits decide what becomes of it
    Ready& ready = ready_[computed.id];
    ready.known = computed.ids.size();
    ready.token = *token;
    ready.hidden.assign(hidden.begin(), hidden.end());
  }
  return true;
}

void MtpDrafter::Propose(std::span<DraftJob> jobs) {
  open_.clear();
  for (DraftJob& job : jobs) {
    const auto it = ready_.find(job.id);
    if (it == ready_.end() || it->second.known != job.ids.size()) continue;
    // Its rows refer to the tokens, so they must stay where they are.
    job.tokens.reserve(static_cast<size_t>(job.max_tokens));
    job.tokens.push_back(it->second.token);
    open_.push_back(&job);
  }
  while (true) {
    std::erase_if(open_, [](const DraftJob* job) {
      return job->tokens.size() == static_cast<size_t>(job->max_tokens);
    });
    if (open_.empty()) return;
    Extend(open_);
  }
}

// One more guess for each.
void MtpDrafter::Extend(std::span<DraftJob* const> jobs) {
  chunks_.clear();
  for (DraftJob* job : jobs) {
    // Where the model's hidden state is not known yet, the draft layer's own stands for it.
    const size_t position = job->ids.size() + job->tokens.size() - 2;
    chunks_.push_back({.next_ids = std::span(job->tokens).last(1),
                       .hidden = ready_.at(job->id).hidden,
                       .start = static_cast<int32_t>(position),
                       .kv = job->kv});
  }
  if (!model_->ForwardMtp(chunks_).ok()) {
    for (DraftJob* job : jobs) job->max_tokens = static_cast<int32_t>(job->tokens.size());
    return;
  }
  const auto vocab = static_cast<size_t>(model_->vocab_size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    DraftJob* job = jobs[i];
    const Result<int32_t> token =
        sampler_.Choose(model_->logits().subspan(i * vocab, vocab), *job->sampling, *job->history,
                        {}, static_cast<int64_t>(job->ids.size() + job->tokens.size()));
    if (!token.ok()) {
      job->max_tokens = static_cast<int32_t>(job->tokens.size());
      continue;
    }
    job->tokens.push_back(*token);
    const std::span<const float> hidden =
        model_->final_hidden().subspan(i * hidden_dim_, hidden_dim_);
    std::ranges::copy(hidden, ready_.at(job->id).hidden.begin());
  }
}

}  // namespace halfmoon::engine
