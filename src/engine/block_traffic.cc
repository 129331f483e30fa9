// SPDX-License-Identifier: Apache-2.0
#include "engine/block_traffic.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace halfmoon::engine {
namespace {

// Blocks that wait to be offered; each is a key, and its page may go meanwhile. 4096 blocks are
// more than a minute of what a CPU computes.
constexpr size_t kMaxRemembered = 4096;
// Silence of the store after which its blocks are computed instead: far above what a disk takes for
// a read, and above what it has been measured to take.
constexpr TimeUs kLeastPatienceUs = 5'000'000;
constexpr double kPatienceFactor = 4.0;

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

int32_t BlockTraffic::ProbeStore(std::span<const kv::BlockKey> keys) {
  if (store_ == nullptr || num_late_ > 0 || keys.empty()) return 0;
  return std::clamp(store_->Probe(keys), 0, static_cast<int32_t>(keys.size()));
}

int32_t BlockTraffic::Loadable(sched::SeqId id, std::span<const kv::BlockKey> keys,
                               int32_t start_tokens) {
  std::vector<Part>& parts = loadable_[id];
  parts.clear();
  const auto own = sources_.find(id);
  size_t end = 0;
  // Who has said how far it can go is not asked to go on before somebody else has.
  enum class Last { kNone, kOwn, kStore } last = Last::kNone;
  while (end < keys.size()) {
    const auto rest = keys.subspan(end);
    int32_t blocks = own == sources_.end() || last == Last::kOwn ? 0 : own->second->Probe(rest);
    const bool from_own = blocks > 0;
    if (!from_own && last != Last::kStore) blocks = ProbeStore(rest);
    const auto found = rest.first(std::min(static_cast<size_t>(std::max(0, blocks)), rest.size()));
    if (found.empty()) break;
    parts.push_back({.source = from_own ? own->second : nullptr, .blocks = found.size()});
    end += found.size();
    last = from_own ? Last::kOwn : Last::kStore;
  }
  // Only at the end something can be left out: without it what follows would be of no use.
  while (!parts.empty()) {
    const size_t begin = end - parts.back().blocks;
    const int32_t start = start_tokens + static_cast<int32_t>(begin) * options_.block_size;
    const auto blocks = keys.subspan(begin, parts.back().blocks);
    if (IsWorthIt(SourceOf(parts.back()), blocks, start)) break;
    parts.pop_back();
    end = begin;
  }
  return static_cast<int32_t>(end);
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
  (void)Start(id, loadable_.at(id), keys, pages);
}

void BlockTraffic::BeginFromStore(sched::SeqId id, std::span<const kv::BlockKey> keys,
                                  std::span<const std::span<std::byte>> pages) {
  HM_CHECK(store_ != nullptr);
  Start(id, {{.source = nullptr, .blocks = keys.size()}}, keys, pages).stepwise = true;
}

BlockTraffic::Flight& BlockTraffic::Start(sched::SeqId id, std::vector<Part> parts,
                                          std::span<const kv::BlockKey> keys,
                                          std::span<const std::span<std::byte>> pages) {
  HM_CHECK(keys.size() == pages.size() && !keys.empty() && !flights_.contains(id));
  Flight& flight = flights_[id];
  flight.parts = std::move(parts);
  flight.blocks.resize(keys.size(), Arrival::kPending);
  flight.tiers.resize(keys.size());
  flight.first_tag = next_tag_;
  flight.pending = keys.size();
  flight.began_us = flight.heard_us = clock_->NowUs();
  flight_of_tag_[next_tag_] = id;
  next_tag_ += keys.size();
  std::vector<store::BlockFetch> fetches;
  size_t block = 0;
  for (Part& part : flight.parts) {
    // Fewer may be wanted than can be had.
    part.blocks = std::min(part.blocks, keys.size() - block);
    fetches.clear();
    const size_t end = block + part.blocks;
    if (part.source == nullptr && part.blocks > 0) {
      flight.patience_us +=
          static_cast<TimeUs>(kPatienceFactor * store_->FetchUs(keys.subspan(block, part.blocks)));
    }
    for (; block < end; ++block) {
      fetches.push_back({.tag = store::BlockTag{flight.first_tag + block},
                         .key = keys[block],
                         .page = pages[block]});
    }
    if (!fetches.empty()) SourceOf(part)->Fetch(fetches);
  }
  HM_CHECK(block == keys.size(), "more blocks than could be loaded");
  flight.patience_us = std::max(flight.patience_us, kLeastPatienceUs);
  return flight;
}

void BlockTraffic::Forget(sched::SeqId id) {
  sources_.erase(id);
  loadable_.erase(id);
  if (const auto flight = flights_.find(id); flight != flights_.end()) {
    CancelFrom(&flight->second, 0);
  }
}

void BlockTraffic::CancelFrom(Flight* flight, size_t block) const {
  flight->cancelled = true;
  size_t begin = 0;
  for (const Part& part : flight->parts) {
    std::vector<store::BlockTag> tags;
    for (size_t i = std::max(begin, block); i < begin + part.blocks; ++i) {
      if (flight->blocks[i] == Arrival::kPending) {
        tags.push_back(store::BlockTag{flight->first_tag + i});
      }
    }
    if (!tags.empty()) SourceOf(part)->Cancel(tags);
    begin += part.blocks;
  }
}

bool BlockTraffic::WaitsForStore(const Flight& flight) const {
  size_t block = 0;
  for (const Part& part : flight.parts) {
    const auto begin = flight.blocks.begin() + static_cast<ptrdiff_t>(block);
    const auto end = begin + static_cast<ptrdiff_t>(part.blocks);
    if (part.source == nullptr && std::find(begin, end, Arrival::kPending) != end) return true;
    block += part.blocks;
  }
  return false;
}

void BlockTraffic::Poll(std::vector<Progress>* progress) {
  events_.clear();
  ended_.clear();
  std::set<store::BlockSource*> asked;
  if (store_ != nullptr) asked.insert(store_);
  for (const auto& [id, flight] : flights_) {
    for (const Part& part : flight.parts) asked.insert(SourceOf(part));
  }
  for (store::BlockSource* source : asked) source->Poll(&events_);
  const TimeUs now_us = clock_->NowUs();
  for (const store::BlockEvent& event : events_) Take(event, now_us);
  for (auto it = flights_.begin(); it != flights_.end();) {
    auto& [id, flight] = *it;
    const auto came = std::ranges::find_if(
        flight.blocks, [](Arrival arrival) { return arrival != Arrival::kCame; });
    const auto before =
        std::exchange(flight.came, static_cast<size_t>(came - flight.blocks.begin()));
    Progress step{.id = id, .blocks = static_cast<int32_t>(flight.came)};
    if (flight.pending > 0) {
      const bool late = !flight.told_late && now_us - flight.heard_us >= flight.patience_us &&
                        WaitsForStore(flight);
      if (late) TellLate(&flight);
      step.state = late ? Progress::State::kLate : Progress::State::kGoesOn;
      step.tiers = std::span(flight.tiers).first(flight.came);
      if (late || (flight.stepwise && flight.came > before)) progress->push_back(step);
      ++it;
      continue;
    }
    counters_.loaded_blocks += flight.came;
    counters_.failed_blocks += flight.blocks.size() - flight.came;
    counters_.load_wait_us += static_cast<uint64_t>(now_us - flight.began_us);
    if (flight.told_late) --num_late_;
    flight_of_tag_.erase(flight.first_tag);
    ended_.push_back(std::move(flight));
    step.tiers = std::span(ended_.back().tiers).first(ended_.back().came);
    progress->push_back(step);
    it = flights_.erase(it);
  }
}

void BlockTraffic::TellLate(Flight* flight) {
  HM_LOG_WARN("the KV store has been silent for {} ms; what it was asked for is computed instead",
              (clock_->NowUs() - flight->heard_us) / 1000);
  flight->told_late = true;
  ++num_late_;
  if (!flight->cancelled) CancelFrom(flight, 0);
}

void BlockTraffic::Take(const store::BlockEvent& event, TimeUs now_us) {
  const auto tag = static_cast<uint64_t>(event.tag);
  if (offers_.erase(tag) > 0) return;
  const auto after = flight_of_tag_.upper_bound(tag);
  HM_CHECK(after != flight_of_tag_.begin(), "an event for nothing that was asked for");
  Flight& flight = flights_.at(std::prev(after)->second);
  const size_t block = tag - flight.first_tag;
  HM_CHECK(block < flight.blocks.size() && flight.blocks[block] == Arrival::kPending,
           "a block has ended twice");
  flight.blocks[block] = event.status.ok() ? Arrival::kCame : Arrival::kFailed;
  flight.tiers[block] = event.tier;
  flight.heard_us = now_us;
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
