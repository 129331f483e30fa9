// SPDX-License-Identifier: Apache-2.0
// The step loop's part in bringing KV blocks in from elsewhere and giving them out to be kept.
#include "engine/step_loop.h"

namespace halfmoon::engine {

// Before a step is planned: what has come counts for it.
void StepLoop::MoveBlocks() {
  TakeProgress();
  if (!traffic_.has_store()) return;
  sealed_.clear();
  table_.TakeSealed(&sealed_);
  traffic_.Remember(sealed_);
  traffic_.StartOffers(&table_, memory_.base());
}

void StepLoop::TakeProgress() {
  using State = BlockTraffic::Progress::State;
  progress_.clear();
  traffic_.Poll(&progress_);
  for (const BlockTraffic::Progress& load : progress_) {
    if (lookups_.Take(load)) continue;
    if (load.state == State::kLate) table_.AbandonLoad(load.id, load.blocks);
    if (load.state == State::kEnded) table_.EndLoad(load.id, load.blocks);
  }
}

void StepLoop::BeginLoads(const std::vector<sched::Load>& loads) {
  for (const sched::Load& load : loads) {
    const std::span<const int32_t> table = table_.At(load.id).page_table;
    std::vector<std::span<std::byte>> pages;
    for (const int32_t page : table.last(static_cast<size_t>(load.pages))) {
      pages.emplace_back(memory_.base() + static_cast<size_t>(page) * page_bytes_, page_bytes_);
    }
    traffic_.Begin(load.id, table_.LoadingKeys(load.id), pages);
  }
}

// At the end: nobody writes to a page or reads one any longer.
void StepLoop::AwaitBlocks() {
  while (!traffic_.idle()) {
    TakeProgress();
    if (!traffic_.idle()) mailbox_->wake->Wait();
  }
}

}  // namespace halfmoon::engine
