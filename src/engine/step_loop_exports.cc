// SPDX-License-Identifier: Apache-2.0
// The part of the step loop that lets others copy KV of prompts while these are computed.
#include <algorithm>
#include <utility>

#include "engine/kv_export.h"
#include "engine/step_loop.h"

namespace halfmoon::engine {

void StepLoop::BeginExport(sched::SeqId id, const Active& active) {
  if (active.request.kv_export == nullptr) return;
  active.request.kv_export->SetWake(mailbox_->wake);
  exports_[id].kv_export = active.request.kv_export;
}

// True where the request is one that only looks for blocks.
bool StepLoop::BeginLookup(sched::SeqId id, Submission* submission) {
  Request& request = submission->request;
  if (request.kv_export == nullptr || !request.kv_export->options().cached_only) return false;
  mailbox_->queued.fetch_sub(1);
  request.kv_export->SetWake(mailbox_->wake);
  lookups_.Begin(id, std::move(request.kv_export), std::move(submission->stream),
                 SeedKey(request.cache_salt), std::move(request.prompt_ids));
  return true;
}

void StepLoop::DropReleasedExports() {
  for (auto it = exports_.begin(); it != exports_.end();) {
    const auto current = it++;
    // While its request runs, it decides when that ends.
    if (!current->second.kv_export->released() || active_.contains(current->first)) continue;
    kv::ReleaseFromBack(&current->second.pages);
    exports_.erase(current);
  }
}

// Blocks [reported, `blocks`) have layers [.., end_layer) from now on.
void StepLoop::ReportKv(sched::SeqId id, int32_t blocks, int end_layer) {
  Exported& exported = exports_.at(id);
  const KvExport::Options& options = exported.kv_export->options();
  blocks = std::min(blocks, options.num_blocks);
  // After a preemption blocks come a second time; the pages that were reported are still held.
  if (blocks <= exported.whole_blocks || end_layer <= exported.layers) return;
  while (static_cast<int32_t>(exported.pages.size()) < blocks) {
    const size_t block = exported.pages.size();
    exported.pages.push_back(table_.HoldPage(id, block));
    exported.page_ids.push_back(kv::ToIndex(exported.pages.back().page()));
  }
  if (!exported.kv_export->released()) {
    options.on_ready({.first_block = exported.whole_blocks,
                      .pages = std::span(exported.page_ids)
                                   .subspan(static_cast<size_t>(exported.whole_blocks),
                                            static_cast<size_t>(blocks - exported.whole_blocks)),
                      .first_layer = exported.layers,
                      .end_layer = end_layer});
  }
  exported.layers = end_layer;
  if (end_layer < num_layers_) return;
  exported.whole_blocks = blocks;
  exported.layers = 0;
}

// During the step that chunks_ describe.
void StepLoop::ReportLayer(int layer) {
  if (exports_.empty()) return;
  for (const sched::Share& share : *computing_) {
    if (!exports_.contains(share.id)) continue;
    ReportKv(share.id, (table_.At(share.id).computed_tokens + share.tokens) / block_size_,
             layer + 1);
  }
}

void StepLoop::ReportComputed(std::span<const sched::Share> shares) {
  if (exports_.empty()) return;
  for (const sched::Share& share : shares) {
    if (!exports_.contains(share.id)) continue;
    ReportKv(share.id, table_.At(share.id).computed_tokens / block_size_, num_layers_);
  }
}

// Reports what an admission brought, and takes those out of the plan that have nothing to compute.
void StepLoop::ServeExports(std::vector<sched::Share>* shares) {
  if (exports_.empty()) return;
  ReportComputed(*shares);
  std::erase_if(*shares, [this](const sched::Share& share) {
    const auto it = exports_.find(share.id);
    if (it == exports_.end()) return false;
    const KvExport::Options& options = it->second.kv_export->options();
    if (it->second.whole_blocks < options.num_blocks && !it->second.kv_export->released()) {
      return false;
    }
    Active& active = active_.at(share.id);
    FinishPrompt(&active, table_.At(share.id).reused_tokens);
    Finish(share.id, FinishReason::kLength);
    return true;
  });
}

}  // namespace halfmoon::engine
