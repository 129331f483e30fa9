// SPDX-License-Identifier: Apache-2.0
#include "engine/block_lookups.h"

#include <algorithm>
#include <span>
#include <utility>

namespace halfmoon::engine {
namespace {

// Pages that look-ups take for blocks of the store are lost to sequences for a while: at most one
// in so many.
constexpr size_t kPartOfPages = 2;

}  // namespace

sched::SequenceTable::Block BlockLookups::BlockAt(const Lookup& lookup, size_t index) const {
  const auto first = static_cast<size_t>(lookup.kv_export->options().first_block);
  return {.seed = lookup.seed, .keys = lookup.keys, .ids = lookup.ids, .number = first + index};
}

void BlockLookups::Begin(sched::SeqId id, std::shared_ptr<KvExport> kv_export,
                         std::shared_ptr<EventStream> stream, const kv::BlockKey& seed,
                         std::vector<int32_t> ids) {
  Lookup& lookup = lookups_[id];
  lookup.kv_export = std::move(kv_export);
  lookup.stream = std::move(stream);
  lookup.seed = seed;
  lookup.ids = std::move(ids);
  const KvExport::Options& options = lookup.kv_export->options();
  const auto wanted = static_cast<size_t>(std::max(0, options.first_block)) +
                      static_cast<size_t>(std::max(0, options.num_blocks));
  const size_t end = std::min(wanted, lookup.ids.size() / block_size_);
  kv::BlockKey previous = seed;
  for (size_t i = 0; i < end; ++i) {
    previous = kv::NextKey(
        previous, std::span<const int32_t>(lookup.ids).subspan(i * block_size_, block_size_));
    lookup.keys.push_back(previous);
  }
  const auto first = static_cast<size_t>(options.first_block);
  if (first < end) FindBlocks(&lookup, end - first);
  Report(&lookup);
  if (lookup.missing.empty()) return End(&lookup, FinishReason::kLength);
  std::vector<kv::BlockKey> keys;
  std::vector<std::span<std::byte>> pages;
  for (size_t index : lookup.missing) {
    keys.push_back(lookup.keys[first + index]);
    const auto page = static_cast<size_t>(kv::ToIndex(lookup.pages[index].page()));
    pages.emplace_back(base_ + page * page_bytes_, page_bytes_);
  }
  lookup.loading = true;
  traffic_->BeginFromStore(id, keys, pages);
}

// Everything that is in pages is held before a page is taken, which may evict some.
void BlockLookups::FindBlocks(Lookup* lookup, size_t count) {
  std::vector<std::optional<kv::PageRef>> held;
  std::vector<bool> here;
  for (size_t i = 0; i < count; ++i) {
    held.push_back(table_->HoldBlock(BlockAt(*lookup, i)));
    here.push_back(held.back().has_value());
  }
  const size_t known = CountKept(*lookup, here);
  const size_t most = static_cast<size_t>(table_->pool().num_pages()) / kPartOfPages;
  for (size_t i = 0; i < known; ++i) {
    if (!here[i]) {
      if (num_loaded_ >= most) break;
      held[i] = table_->TakePage();
      if (!held[i].has_value()) break;
      ++num_loaded_;
      lookup->missing.push_back(i);
    }
    lookup->pages.push_back(std::move(*held[i]));
    lookup->tiers.emplace_back();
  }
  // What follows the end is let go from the back, as sequences do.
  while (!held.empty()) held.pop_back();
}

// How many leading blocks are in pages or in the store.
size_t BlockLookups::CountKept(const Lookup& lookup, const std::vector<bool>& here) const {
  const auto first = static_cast<size_t>(lookup.kv_export->options().first_block);
  for (size_t i = 0; i < here.size();) {
    size_t end = i;
    while (end < here.size() && here[end] == here[i]) ++end;
    if (!here[i]) {
      const auto keys = std::span(lookup.keys).subspan(first + i, end - i);
      const auto found = static_cast<size_t>(traffic_->ProbeStore(keys));
      if (found < keys.size()) return i + found;
    }
    i = end;
  }
  return here.size();
}

bool BlockLookups::Take(const BlockTraffic::Progress& progress) {
  const auto it = lookups_.find(progress.id);
  if (it == lookups_.end()) return false;
  Lookup& lookup = it->second;
  if (progress.state == BlockTraffic::Progress::State::kEnded) lookup.loading = false;
  for (; !lookup.ended && lookup.arrived < static_cast<size_t>(progress.blocks); ++lookup.arrived) {
    const size_t index = lookup.missing[lookup.arrived];
    lookup.tiers[index] = progress.tiers[lookup.arrived];
    Publish(&lookup, index);
  }
  Report(&lookup);
  if (progress.state != BlockTraffic::Progress::State::kGoesOn) {
    End(&lookup, FinishReason::kLength);
  }
  return true;
}

// Others find it in pages from now on. Where its parent is in none, nobody could; it stays ours.
void BlockLookups::Publish(Lookup* lookup, size_t index) {
  kv::PageRef* page = &lookup->pages[index];
  std::optional<kv::PageRef> published = table_->PublishBlock(BlockAt(*lookup, index), page);
  if (published.has_value()) *page = std::move(*published);
}

// Those that have come, up to the first that has not.
void BlockLookups::Report(Lookup* lookup) {
  if (lookup->ended || lookup->kv_export->released()) return;
  const size_t end = lookup->arrived < lookup->missing.size() ? lookup->missing[lookup->arrived]
                                                              : lookup->pages.size();
  const KvExport::Options& options = lookup->kv_export->options();
  while (lookup->reported < end) {
    // One tier at a time.
    const size_t begin = lookup->reported;
    std::vector<int32_t> pages;
    for (; lookup->reported < end && lookup->tiers[lookup->reported] == lookup->tiers[begin];
         ++lookup->reported) {
      pages.push_back(kv::ToIndex(lookup->pages[lookup->reported].page()));
    }
    if (!lookup->tiers[begin].has_value()) num_page_hits_ += pages.size();
    options.on_ready({.first_block = options.first_block + static_cast<int32_t>(begin),
                      .pages = pages,
                      .first_layer = 0,
                      .end_layer = num_layers_,
                      .tier = lookup->tiers[begin]});
  }
}

void BlockLookups::End(Lookup* lookup, FinishReason reason, std::optional<Error> error) const {
  if (std::exchange(lookup->ended, true)) return;
  if (reason == FinishReason::kLength) {
    lookup->stream->Push(
        PromptEvent{.cached_tokens = static_cast<int32_t>(lookup->reported * block_size_)});
  }
  lookup->stream->Push(FinishEvent{.reason = reason, .error = std::move(error)});
}

void BlockLookups::Drop() {
  for (auto it = lookups_.begin(); it != lookups_.end();) {
    const auto current = it++;
    Lookup& lookup = current->second;
    const bool released = lookup.kv_export->released();
    if (!released && !lookup.stream->cancelled()) continue;
    // Pages that were reported may still be copied after a cancel.
    if (!lookup.ended) {
      traffic_->Forget(current->first);
      End(&lookup, FinishReason::kCancelled);
    }
    if (!released || lookup.loading) continue;
    num_loaded_ -= lookup.missing.size();
    kv::ReleaseFromBack(&lookup.pages);
    lookups_.erase(current);
  }
}

void BlockLookups::EndAll(const Error& error) {
  for (auto& [id, lookup] : lookups_) {
    if (!lookup.ended) traffic_->Forget(id);
    End(&lookup, FinishReason::kError, error);
    lookup.kv_export->Release();
  }
}

}  // namespace halfmoon::engine
