// SPDX-License-Identifier: Apache-2.0
#include "sim/node_steps.h"

#include <algorithm>
#include <set>
#include <utility>

namespace halfmoon::sim {

NodeSteps::NodeSteps(const Options& options)
    : options_(options),
      table_({.limits = options.limits, .num_pages = options.num_pages, .loads = this}) {}

void NodeSteps::Add(uint32_t request, std::vector<int32_t> ids, int32_t there_tokens) {
  const sched::SeqId id{next_id_++};
  ids_[request] = id;
  requests_[id] = request;
  there_tokens_[id] = there_tokens;
  table_.Add(id, {.ids = std::move(ids)});
}

void NodeSteps::Remove(uint32_t request) {
  const sched::SeqId id = ids_.at(request);
  if (options_.leak_page && !table_.At(id).pages.empty()) {
    leaked_.push_back(table_.HoldPage(id, 0));
  }
  table_.Remove(id);
  ids_.erase(request);
  requests_.erase(id);
  there_tokens_.erase(id);
  std::erase_if(plan_.shares, [&](const sched::Share& share) { return share.id == id; });
}

int32_t NodeSteps::Loadable(sched::SeqId id, std::span<const kv::BlockKey> keys,
                            int32_t start_tokens) {
  const int32_t blocks = (there_tokens_.at(id) - start_tokens) / options_.limits.block_size;
  return std::clamp(blocks, 0, static_cast<int32_t>(keys.size()));
}

std::optional<NodeSteps::Step> NodeSteps::Begin(double most_prompt_us) {
  table_.SetPromptLimit({.most_us = most_prompt_us, .cost = options_.costs.prefill});
  // Loads take no time: what they took has gone by before Add. So who had one takes part at once,
  // in a plan that is made again; pages that the first one granted stay with their sequences.
  do {
    plan_ = table_.BeginStep();
    for (const sched::SeqId id : plan_.preempt) there_tokens_.at(id) = 0;
    for (const sched::Load& load : plan_.loads) table_.EndLoad(load.id, load.pages);
  } while (!plan_.loads.empty());
  num_decoding_ = 0;
  decoding_tokens_ = 0;
  if (plan_.shares.empty()) return std::nullopt;
  Step step;
  for (const sched::Share& share : plan_.shares) {
    const sched::Sequence& sequence = table_.At(share.id);
    step.computes.push_back(requests_.at(share.id));
    if (sequence.computed_tokens + 1 == static_cast<int32_t>(sequence.ids.size())) {
      ++num_decoding_;
      decoding_tokens_ += static_cast<int64_t>(sequence.ids.size());
    } else {
      step.prompt_us += options_.costs.prefill.Us(share.tokens, sequence.computed_tokens);
    }
  }
  if (step.prompt_us > 0.0) step.prompt_us += options_.costs.prefill.fixed_us;
  step.us = step.prompt_us + options_.costs.decode.Us(num_decoding_, decoding_tokens_);
  return step;
}

std::vector<uint32_t> NodeSteps::Count() {
  table_.CountComputed(plan_.shares);
  std::vector<uint32_t> due;
  for (const sched::Share& share : plan_.shares) {
    const sched::Sequence& sequence = table_.At(share.id);
    if (sequence.computed_tokens == static_cast<int32_t>(sequence.ids.size())) {
      due.push_back(requests_.at(share.id));
    }
  }
  return due;
}

void NodeSteps::End() {
  table_.EndStep(plan_.shares);
  plan_ = {};
}

std::string NodeSteps::Violation() {
  const kv::PagePool& pool = table_.pool();
  std::map<int32_t, int32_t> holders;
  for (const auto& [request, id] : ids_) {
    const sched::Sequence& sequence = table_.At(id);
    if (sequence.pages.size() != sequence.page_table.size()) return "a page table of another size";
    std::set<int32_t> own;
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      const int32_t page = kv::ToIndex(sequence.pages[i].page());
      if (page != sequence.page_table[i]) return "a page table with another page";
      if (!own.insert(page).second) return "a sequence has a page twice";
      ++holders[page];
    }
  }
  for (const auto& [page, count] : holders) {
    if (pool.num_holders(kv::PageId{page}) != count) return "a page has holders that nobody knows";
  }
  if (pool.num_in_use() != static_cast<int32_t>(holders.size())) return "a page is lost";
  if (table_.num_running() > options_.limits.max_running) return "more sequences than may run";
  int32_t tokens = 0;
  for (const sched::Share& share : plan_.shares) {
    const sched::Sequence& sequence = table_.At(share.id);
    tokens += share.tokens;
    const int32_t block = options_.limits.block_size;
    const int32_t end = sequence.computed_tokens + share.tokens;
    if (sched::PagesFor(end, block) > static_cast<int32_t>(sequence.pages.size())) {
      return "a share without pages";
    }
    for (int32_t i = sequence.computed_tokens / block; i * block < end; ++i) {
      const kv::PageId page = sequence.pages[static_cast<size_t>(i)].page();
      if (pool.num_holders(page) != 1) return "a page that another one has is written to";
    }
  }
  if (tokens > options_.limits.step_tokens) return "a step above its budget";
  return "";
}

}  // namespace halfmoon::sim
