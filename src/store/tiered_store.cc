// SPDX-License-Identifier: Apache-2.0
#include "store/tiered_store.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "base/check.h"

namespace halfmoon::store {
namespace {

// Far above what a step can have in flight; beyond it the answer is at once that there is no room.
constexpr size_t kMaxFetches = size_t{1} << 16;
constexpr size_t kMaxOffers = 1024;

}  // namespace

Result<std::unique_ptr<TieredStore>> TieredStore::Open(TieredStoreOptions options,
                                                       const Clock* clock) {
  std::unique_ptr<TieredStore> store(new TieredStore(std::move(options), clock));
  HM_TRY(store->Start());
  return store;
}

TieredStore::TieredStore(TieredStoreOptions options, const Clock* clock)
    : scope_(std::move(options.scope)),
      clock_(clock),
      disk_budget_bytes_(options.folder == nullptr ? 0 : options.disk_bytes),
      folder_(std::move(options.folder)),
      catalog_(options.catalog) {
  HM_CHECK(scope_.page_bytes > 0);
  const uint64_t slots = options.pool_bytes / AlignToDisk(scope_.page_bytes);
  pool_slots_ = static_cast<int32_t>(std::min<uint64_t>(slots, INT32_MAX));
  stats_.dram.budget_bytes = options.pool_bytes;
  stats_.disk.budget_bytes = disk_budget_bytes_;
}

Status TieredStore::Start() {
  if (pool_slots_ == 0 && folder_ == nullptr) {
    return Error(ErrorCode::kInvalidArgument, "a KV pool of " +
                                                  std::to_string(stats_.dram.budget_bytes) +
                                                  " bytes holds no block; one takes " +
                                                  std::to_string(AlignToDisk(scope_.page_bytes)));
  }
  try {
    pool_ =
        tensor::AlignedBuffer(static_cast<size_t>(pool_slots_) * AlignToDisk(scope_.page_bytes));
    pool_checksums_.resize(static_cast<size_t>(pool_slots_));
  } catch (const std::bad_alloc&) {
    return Error(
        ErrorCode::kResourceExhausted,
        "no memory for a KV pool of " + std::to_string(stats_.dram.budget_bytes) + " bytes");
  }
  catalog_.AddSlots(kv::Tier::kDram, kv::SlotId{0}, pool_slots_);
  if (folder_ != nullptr) {
    HM_ASSIGN(disk_, SegmentStore::Open(folder_.get(),
                                        {.scope = scope_, .budget_bytes = disk_budget_bytes_}));
    disk_->Restore(&catalog_);
    stats_.found = disk_->found();
    disk_method_ = folder_->method();
  }
  mover_ = std::thread([this] { Run(); });
  return {};
}

TieredStore::~TieredStore() {
  if (!mover_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  mover_.join();
}

int32_t TieredStore::Probe(std::span<const kv::BlockKey> keys) {
  const TimeUs now_us = clock_->NowUs();
  std::lock_guard lock(mutex_);
  catalog_.DropStalePuts(now_us);
  return catalog_.Probe(keys, now_us);
}

double TieredStore::FetchUs(std::span<const kv::BlockKey> keys) {
  std::lock_guard lock(mutex_);
  const auto per_byte = [](const TierStats& tier) {
    return tier.read_bytes == 0
               ? 0.0
               : static_cast<double>(tier.read_us) / static_cast<double>(tier.read_bytes);
  };
  const double dram = per_byte(stats_.dram);
  const double disk = per_byte(stats_.disk);
  double us_per_page_byte = 0.0;
  for (const kv::BlockKey& key : keys) {
    us_per_page_byte += catalog_.Has(key, kv::Tier::kDram) ? dram : disk;
  }
  return us_per_page_byte * static_cast<double>(scope_.page_bytes);
}

void TieredStore::Fetch(std::span<const BlockFetch> blocks) {
  bool refused = false;
  {
    std::lock_guard lock(mutex_);
    for (const BlockFetch& block : blocks) {
      HM_CHECK(block.page.size() == scope_.page_bytes);
      if (fetches_.size() + reads_.size() < kMaxFetches) {
        fetches_.push_back(block);
        continue;
      }
      refused = true;
      events_.push_back(
          {.tag = block.tag, .status = Error(ErrorCode::kUnavailable, "too many fetches wait")});
    }
  }
  work_.notify_one();
  if (refused && wake_) wake_();
}

void TieredStore::Cancel(std::span<const BlockTag> tags) {
  bool ended = false;
  {
    std::lock_guard lock(mutex_);
    const std::unordered_set<uint64_t> wanted = [&] {
      std::unordered_set<uint64_t> set;
      for (const BlockTag tag : tags) set.insert(static_cast<uint64_t>(tag));
      return set;
    }();
    for (std::deque<BlockFetch>* queue : {&fetches_, &reads_}) {
      const auto drop = [&](const BlockFetch& fetch) {
        if (!wanted.contains(static_cast<uint64_t>(fetch.tag))) return false;
        events_.push_back({.tag = fetch.tag, .status = Error(ErrorCode::kCancelled, "cancelled")});
        ended = true;
        return true;
      };
      std::erase_if(*queue, drop);
    }
  }
  if (ended && wake_) wake_();
}

void TieredStore::Poll(std::vector<BlockEvent>* events) {
  std::lock_guard lock(mutex_);
  for (BlockEvent& event : events_) events->push_back(std::move(event));
  events_.clear();
}

void TieredStore::SetWake(std::function<void()> wake) {
  std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

bool TieredStore::Wants(const kv::BlockKey& key) {
  std::lock_guard lock(mutex_);
  return !offered_.contains(key) &&
         !catalog_.Has(key, has_disk() ? kv::Tier::kDisk : kv::Tier::kDram);
}

void TieredStore::Offer(const BlockOffer& block) {
  HM_CHECK(block.page.size() == scope_.page_bytes);
  std::optional<BlockEvent> event;
  {
    std::lock_guard lock(mutex_);
    if (offered_.contains(block.key)) {
      event = {.tag = block.tag, .status = {}};
    } else if (offers_.size() >= kMaxOffers) {
      ++stats_.dropped_puts;
      event = {.tag = block.tag, .status = Error(ErrorCode::kUnavailable, "too many offers wait")};
    } else {
      offered_.insert(block.key);
      offers_.push_back(block);
      busy_ = true;
    }
    if (event.has_value()) events_.push_back(*event);
  }
  work_.notify_one();
  if (event.has_value() && wake_) wake_();
}

void TieredStore::SetPin(const kv::BlockKey& key, kv::Pin pin) {
  std::lock_guard lock(mutex_);
  catalog_.SetPin(key, pin);
}

bool TieredStore::Flush(TimeUs timeout_us) {
  std::unique_lock lock(mutex_);
  return quiet_.wait_for(lock, std::chrono::microseconds(timeout_us), [this] { return !busy_; });
}

bool TieredStore::TakeChanges(kv::Tier tier, int32_t most, kv::CatalogChanges* changes) {
  std::lock_guard lock(mutex_);
  return catalog_.TakeChanges(tier, most, changes);
}

bool TieredStore::ListTold(kv::Tier tier, int32_t most, int32_t* next,
                           std::vector<kv::BlockKey>* keys) const {
  std::lock_guard lock(mutex_);
  return catalog_.ListTold(tier, most, next, keys);
}

StoreStats TieredStore::Stats() const {
  std::lock_guard lock(mutex_);
  StoreStats stats = stats_;
  for (const kv::Tier tier : kv::kTiers) {
    TierStats& of = tier == kv::Tier::kDram ? stats.dram : stats.disk;
    of.blocks = static_cast<uint64_t>(catalog_.num_ready(tier));
    of.used_bytes = of.blocks * scope_.page_bytes;
    of.evictions = catalog_.stats(tier).evictions;
    stats.stale_puts += catalog_.stats(tier).stale_puts;
  }
  stats.pending_puts = offered_.size();
  return stats;
}

}  // namespace halfmoon::store
