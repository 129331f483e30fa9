// SPDX-License-Identifier: Apache-2.0
#include "engine/block_traffic.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"

namespace halfmoon::engine {
namespace {

// Blocks that wait to be offered; each is a key, and its page may go meanwhile. 4096 blocks are
// more than a minute of what a CPU computes.
constexpr size_t kMaxRemembered = 4096;

}  // namespace

BlockTraffic::BlockTraffic(const Options& options, store::BlockStore* store, const StepCosts* costs,
                           const Clock* clock, std::shared_ptr<WakeSignal> wake)
    : options_(options), store_(store), costs_(costs), clock_(clock), wake_(std::move(wake)) {
  HM_CHECK(options.max_offers >= 1);
  if (store_ != nullptr) store_->SetWake([signal = wake_] { signal->Raise(); });
}

void BlockTraffic::AddSource(sched::SeqId id, std::shared_ptr<store::BlockSource> source) {
  source->SetWake([signal = wake_] { signal->Raise(); });
  sources_[id] = std::move(source);
}

int32_t BlockTraffic::Loadable(sched::SeqId id, std::span<const kv::BlockKey> keys,
                               int32_t start_tokens) {
  const auto ask = [&](store::BlockSource* source) {
    const int32_t blocks = std::clamp(source->Probe(keys), 0, static_cast<int32_t>(keys.size()));
    const auto found = keys.first(static_cast<size_t>(blocks));
    return blocks > 0 && IsWorthIt(source, found, start_tokens) ? blocks : 0;
  };
  if (const auto own = sources_.find(id); own != sources_.end()) {
    const int32_t blocks = ask(own->second.get());
    from_own_[id] = blocks > 0;
    if (blocks > 0) return blocks;
  }
  return store_ == nullptr ? 0 : ask(store_);
}

bool BlockTraffic::IsWorthIt(store::BlockSource* source, std::span<const kv::BlockKey> keys,
                             int32_t start_tokens) const {
  const sched::PromptCost& cost = costs_->prompt();
  const double fetch_us = source->FetchUs(keys);
  if (cost.token_us <= 0.0 || fetch_us <= 0.0) return true;
  const auto tokens = static_cast<int32_t>(keys.size()) * options_.block_size;
  return fetch_us < cost.fixed_us + cost.Us(tokens, start_tokens);
}

void BlockTraffic::Begin(sched::SeqId id, std::span<const kv::BlockKey> keys,
                         std::span<const std::span<std::byte>> pages) {
  HM_CHECK(keys.size() == pages.size() && !keys.empty() && !flights_.contains(id));
  Flight& flight = flights_[id];
  const auto own = from_own_.find(id);
  if (own != from_own_.end() && own->second) flight.owned = sources_.at(id);
  flight.blocks.resize(keys.size(), Arrival::kPending);
  flight.first_tag = next_tag_;
  flight.pending = keys.size();
  flight.began_us = clock_->NowUs();
  flight_of_tag_[next_tag_] = id;
  std::vector<store::BlockFetch> fetches;
  fetches.reserve(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    fetches.push_back({.tag = store::BlockTag{next_tag_++}, .key = keys[i], .page = pages[i]});
  }
  SourceOf(flight)->Fetch(fetches);
}

void BlockTraffic::Forget(sched::SeqId id) {
  sources_.erase(id);
  from_own_.erase(id);
  if (const auto flight = flights_.find(id); flight != flights_.end()) {
    CancelFrom(&flight->second, 0);
  }
}

void BlockTraffic::CancelFrom(Flight* flight, size_t block) const {
  std::vector<store::BlockTag> tags;
  for (size_t i = block; i < flight->blocks.size(); ++i) {
    if (flight->blocks[i] == Arrival::kPending) {
      tags.push_back(store::BlockTag{flight->first_tag + i});
    }
  }
  flight->cancelled = true;
  if (!tags.empty()) SourceOf(*flight)->Cancel(tags);
}

void BlockTraffic::Poll(std::vector<Ended>* ended) {
  events_.clear();
  std::set<store::BlockSource*> asked;
  if (store_ != nullptr) asked.insert(store_);
  for (const auto& [id, flight] : flights_) asked.insert(SourceOf(flight));
  for (store::BlockSource* source : asked) source->Poll(&events_);
  for (const store::BlockEvent& event : events_) Take(event);
  for (auto it = flights_.begin(); it != flights_.end();) {
    const auto& [id, flight] = *it;
    if (flight.pending > 0) {
      ++it;
      continue;
    }
    const auto came = std::ranges::find_if(
        flight.blocks, [](Arrival arrival) { return arrival != Arrival::kCame; });
    const auto blocks = static_cast<int32_t>(came - flight.blocks.begin());
    counters_.loaded_blocks += static_cast<uint64_t>(blocks);
    counters_.failed_blocks += flight.blocks.size() - static_cast<size_t>(blocks);
    counters_.load_wait_us += static_cast<uint64_t>(clock_->NowUs() - flight.began_us);
    ended->push_back({.id = id, .blocks = blocks});
    flight_of_tag_.erase(flight.first_tag);
    it = flights_.erase(it);
  }
}

void BlockTraffic::Take(const store::BlockEvent& event) {
  const auto tag = static_cast<uint64_t>(event.tag);
  if (offers_.erase(tag) > 0) return;
  const auto after = flight_of_tag_.upper_bound(tag);
  HM_CHECK(after != flight_of_tag_.begin(), "an event for nothing that was asked for");
  Flight& flight = flights_.at(std::prev(after)->second);
  const size_t block = tag - flight.first_tag;
  HM_CHECK(block < flight.blocks.size() && flight.blocks[block] == Arrival::kPending,
           "a block has ended twice");
  flight.blocks[block] = event.status.ok() ? Arrival::kCame : Arrival::kFailed;
  --flight.pending;
  // What follows would be of no use. What comes before may still come, and fail too.
  if (!event.status.ok() && !flight.cancelled) CancelFrom(&flight, block + 1);
}

void BlockTraffic::Remember(std::span<const kv::BlockKey> keys) {
  for (const kv::BlockKey& key : keys) {
    if (remembered_.size() == kMaxRemembered) {
      remembered_.pop_front();
      ++counters_.unoffered_blocks;
    }
    remembered_.push_back(key);
  }
}

void BlockTraffic::StartOffers(sched::SequenceTable* table, const std::byte* base) {
  while (!remembered_.empty() && offers_.size() < static_cast<size_t>(options_.max_offers)) {
    const kv::BlockKey key = remembered_.front();
    remembered_.pop_front();
    if (!store_->Wants(key)) continue;
    std::optional<kv::PageRef> page = table->HoldBlock(key);
    if (!page.has_value()) {
      ++counters_.unoffered_blocks;
      continue;
    }
    const auto offset = static_cast<size_t>(kv::ToIndex(page->page())) * options_.page_bytes;
    const uint64_t tag = next_tag_++;
    offers_.emplace(tag, std::move(*page));
    store_->Offer({.tag = store::BlockTag{tag},
                   .key = key,
                   .page = std::span(base + offset, options_.page_bytes)});
  }
}

}  // namespace halfmoon::engine
