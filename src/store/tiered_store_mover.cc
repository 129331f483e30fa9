// SPDX-License-Identifier: Apache-2.0
// The thread of a tiered store, which moves all bytes: it copies under no lock, and books under the
// store's.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "store/tiered_store.h"

namespace halfmoon::store {
namespace {

// Offers between two looks at fetches: somebody waits for those.
constexpr size_t kOffersAtOnce = 4;
// Blocks of the pool that wait for the disk cannot be evicted, so they stay a small part of it.
constexpr int32_t kWaitingPartOfPool = 4;
constexpr size_t kMaxWaiting = 4096;
// A disk that was full or failed is asked again after this, and spoken of as often.
constexpr TimeUs kTryAgainUs = 60'000'000;

}  // namespace

std::span<std::byte> TieredStore::PoolSlot(kv::SlotId slot) {
  const auto stride = static_cast<size_t>(AlignToDisk(scope_.page_bytes));
  return {pool_.data() + static_cast<size_t>(kv::ToIndex(slot)) * stride,
          static_cast<size_t>(scope_.page_bytes)};
}

void TieredStore::Run() {
  std::vector<BlockFetch> fetches;
  std::vector<BlockOffer> offers;
  while (TakeCommands(&fetches, &offers)) {
    for (const BlockFetch& fetch : fetches) ServeFetch(fetch);
    for (const BlockOffer& offer : offers) ServeOffer(offer);
    if (!has_disk()) continue;
    StartReads();
    StartWrites();
    disk_->StartRecords();
    // Without new work there is nothing to do before a transfer ends. Commands that come meanwhile
    // wait for that, some milliseconds.
    FinishDisk(/*wait=*/fetches.empty() && offers.empty());
  }
  GiveUp();
}

// What there is to do; waits where that is nothing and nothing is going on. False at the end.
bool TieredStore::TakeCommands(std::vector<BlockFetch>* fetches, std::vector<BlockOffer>* offers) {
  fetches->clear();
  offers->clear();
  std::unique_lock lock(mutex_);
  const bool moving = has_disk() && (!disk_->idle() || !writes_.empty() || !reads_.empty());
  if (!moving) {
    if (offers_.empty()) {
      busy_ = false;
      quiet_.notify_all();
    }
    work_.wait(lock, [this] { return stop_ || !fetches_.empty() || !offers_.empty(); });
  }
  if (stop_) return false;
  fetches->assign(fetches_.begin(), fetches_.end());
  fetches_.clear();
  // Pages of offers are held by whoever offered them, so they bound what waits for the disk.
  for (size_t i = 0; i < kOffersAtOnce && !offers_.empty() && writes_.size() < kMaxWaiting; ++i) {
    offers->push_back(offers_.front());
    offers_.pop_front();
  }
  return true;
}

void TieredStore::Complete(BlockTag tag, Status status, std::optional<kv::Tier> tier) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back({.tag = tag, .status = std::move(status), .tier = tier});
  }
  if (wake_) wake_();
}

void TieredStore::ServeFetch(const BlockFetch& fetch) {
  std::optional<kv::SlotId> slot;
  {
    std::lock_guard lock(mutex_);
    slot = catalog_.BeginRead(fetch.key, kv::Tier::kDram);
    if (!slot.has_value() && catalog_.Has(fetch.key, kv::Tier::kDisk)) {
      reads_.push_back(fetch);
      return;
    }
    if (!slot.has_value()) ++stats_.misses;
  }
  if (!slot.has_value()) {
    Complete(fetch.tag, Error(ErrorCode::kNotFound, "the block is not kept any more"));
    return;
  }
  const TimeUs begin_us = clock_->NowUs();
  std::ranges::copy(PoolSlot(*slot), fetch.page.begin());
  const bool good = PageChecksum(fetch.key, fetch.page) ==
                    pool_checksums_[static_cast<size_t>(kv::ToIndex(*slot))];
  {
    std::lock_guard lock(mutex_);
    catalog_.EndRead(kv::Tier::kDram, *slot, good);
    stats_.dram.read_us += static_cast<uint64_t>(clock_->NowUs() - begin_us);
    stats_.dram.read_bytes += scope_.page_bytes;
    ++(good ? stats_.dram.hits : stats_.dram.corrupt_blocks);
  }
  if (good) {
    Complete(fetch.tag, {}, kv::Tier::kDram);
    return;
  }
  TellNowAndThen("a block in memory has changed; it is dropped");
  // The disk may have a copy that is right.
  ServeFetch(fetch);
}

// Whether the pool has the block now.
bool TieredStore::PutIntoPool(const kv::BlockKey& key, std::span<const std::byte> page) {
  std::optional<kv::SlotId> slot;
  {
    std::lock_guard lock(mutex_);
    if (catalog_.Has(key, kv::Tier::kDram)) return true;
    slot = catalog_.BeginPut(key, kv::Tier::kDram, clock_->NowUs());
  }
  if (!slot.has_value()) return false;
  const TimeUs begin_us = clock_->NowUs();
  std::ranges::copy(page, PoolSlot(*slot).begin());
  pool_checksums_[static_cast<size_t>(kv::ToIndex(*slot))] = PageChecksum(key, PoolSlot(*slot));
  std::lock_guard lock(mutex_);
  stats_.dram.write_us += static_cast<uint64_t>(clock_->NowUs() - begin_us);
  stats_.dram.write_bytes += scope_.page_bytes;
  return catalog_.EndPut(kv::Tier::kDram, *slot, kv::BlockCatalog::PutEnd::kWritten);
}

void TieredStore::ServeOffer(const BlockOffer& offer) {
  const bool pooled = has_pool() && PutIntoPool(offer.key, offer.page);
  if (!has_disk()) {
    {
      std::lock_guard lock(mutex_);
      offered_.erase(offer.key);
      if (!pooled) ++stats_.dropped_puts;
    }
    Complete(offer.tag,
             pooled ? Status() : Error(ErrorCode::kResourceExhausted, "no slot can be freed"));
    return;
  }
  DiskWrite write{.key = offer.key, .offer = offer};
  if (pooled) {
    std::lock_guard lock(mutex_);
    const auto most =
        std::min(kMaxWaiting, static_cast<size_t>(std::max(1, pool_slots_ / kWaitingPartOfPool)));
    if (writes_.size() < most) {
      write.from_pool = catalog_.BeginRead(offer.key, kv::Tier::kDram);
    } else {
      // The disk is slower than what is computed: this block is only in memory.
      offered_.erase(offer.key);
      ++stats_.dropped_puts;
    }
  }
  if (pooled) Complete(offer.tag, {});
  if (!pooled || write.from_pool.has_value()) writes_.push_back(write);
}

void TieredStore::StartReads() {
  while (disk_->CanStart()) {
    BlockFetch fetch;
    std::optional<kv::SlotId> slot;
    {
      std::lock_guard lock(mutex_);
      if (reads_.empty()) return;
      fetch = reads_.front();
      reads_.pop_front();
      slot = catalog_.BeginRead(fetch.key, kv::Tier::kDisk);
      if (!slot.has_value()) ++stats_.misses;
    }
    if (!slot.has_value()) {
      Complete(fetch.tag, Error(ErrorCode::kNotFound, "the block is not kept any more"));
      continue;
    }
    if (reading_.empty()) read_since_us_ = clock_->NowUs();
    const uint64_t tag = next_tag_++;
    reading_[tag] = fetch;
    disk_->Read(tag, *slot, fetch.key, fetch.page);
  }
}

// Whether a put need not wait for the segment that is being made. It would evict a block for the
// sake of some milliseconds.
bool TieredStore::HasSlotToWrite() {
  {
    std::lock_guard lock(mutex_);
    if (!catalog_.IsNearlyFull(kv::Tier::kDisk)) return true;
  }
  if (disk_->CanGrow() && clock_->NowUs() >= grow_after_us_) GrowDisk();
  return !disk_->growing();
}

void TieredStore::GrowDisk() {
  const Status grown = disk_->Grow();
  if (grown.ok()) return;
  grow_after_us_ = clock_->NowUs() + kTryAgainUs;
  TellNowAndThen(grown.error().message() + "; KV blocks go on in the space they have");
}

void TieredStore::StartWrites() {
  // Half of the transfers at most, so that a fetch finds one free.
  const size_t most = std::max<size_t>(1, folder_->depth() / 2);
  while (!writes_.empty() && disk_->CanStart() && writing_.size() < most) {
    if (!HasSlotToWrite() || !disk_->CanStart()) return;
    const DiskWrite write = writes_.front();
    writes_.pop_front();
    std::optional<kv::SlotId> slot;
    {
      std::lock_guard lock(mutex_);
      slot = catalog_.BeginPut(write.key, kv::Tier::kDisk, clock_->NowUs());
      if (!slot.has_value()) ++stats_.dropped_puts;
    }
    if (!slot.has_value()) {
      EndWrite(write, Error(ErrorCode::kResourceExhausted, "no slot can be freed"));
      continue;
    }
    if (writing_.empty()) write_since_us_ = clock_->NowUs();
    const uint64_t tag = next_tag_++;
    disk_->Write(tag, *slot, write.key,
                 write.from_pool.has_value()
                     ? std::span<const std::byte>(PoolSlot(*write.from_pool))
                     : write.offer.page);
    // The disk has a copy of its own now; what it came from is free again.
    DiskWrite& started = writing_[tag] = write;
    if (write.from_pool.has_value()) {
      std::lock_guard lock(mutex_);
      catalog_.EndRead(kv::Tier::kDram, *write.from_pool, /*good=*/true);
      started.from_pool.reset();
    } else {
      Complete(write.offer.tag, {});
    }
  }
}

// A write that never got to the disk.
void TieredStore::EndWrite(const DiskWrite& write, Status status) {
  {
    std::lock_guard lock(mutex_);
    offered_.erase(write.key);
    if (write.from_pool.has_value()) {
      catalog_.EndRead(kv::Tier::kDram, *write.from_pool, /*good=*/true);
    }
  }
  if (!write.from_pool.has_value()) Complete(write.offer.tag, std::move(status));
}

void TieredStore::FinishDisk(bool wait) {
  done_.clear();
  disk_->Poll(wait, &done_);
  for (const SlotDone& done : done_) {
    done.kind == SlotDone::Kind::kRead ? FinishRead(done) : FinishWrite(done);
  }
  const auto slots = disk_->TakeNewSlots();
  if (!slots.ok()) {
    grow_after_us_ = clock_->NowUs() + kTryAgainUs;
    TellNowAndThen(slots.error().message() + "; KV blocks go on in the space they have");
  } else if (slots->has_value()) {
    std::lock_guard lock(mutex_);
    catalog_.AddSlots(kv::Tier::kDisk, (*slots)->first, (*slots)->count);
  }
  disk_->StartRecords();
}

void TieredStore::FinishRead(const SlotDone& done) {
  const auto it = reading_.find(done.tag);
  const BlockFetch fetch = it->second;
  reading_.erase(it);
  const bool corrupt = !done.status.ok() && done.status.error().code() == ErrorCode::kCorrupt;
  {
    std::lock_guard lock(mutex_);
    catalog_.EndRead(kv::Tier::kDisk, done.slot, done.status.ok());
    if (done.status.ok()) {
      ++stats_.disk.hits;
      stats_.disk.read_bytes += scope_.page_bytes;
    } else {
      ++(corrupt ? stats_.disk.corrupt_blocks : stats_.disk.read_errors);
    }
    if (reading_.empty()) {
      stats_.disk.read_us += static_cast<uint64_t>(clock_->NowUs() - read_since_us_);
    }
  }
  if (!done.status.ok()) {
    TellNowAndThen(done.status.error().message() + "; the block is computed instead");
  } else if (has_pool()) {
    (void)PutIntoPool(fetch.key, fetch.page);
  }
  const auto from = done.status.ok() ? std::optional(kv::Tier::kDisk) : std::nullopt;
  Complete(fetch.tag, done.status, from);
}

void TieredStore::FinishWrite(const SlotDone& done) {
  using PutEnd = kv::BlockCatalog::PutEnd;
  const auto it = writing_.find(done.tag);
  const DiskWrite write = it->second;
  writing_.erase(it);
  {
    std::lock_guard lock(mutex_);
    // Where the disk is full the slot may do later; where it refuses, not.
    const bool full =
        !done.status.ok() && done.status.error().code() == ErrorCode::kResourceExhausted;
    catalog_.EndPut(
        kv::Tier::kDisk, done.slot,
        done.status.ok() ? PutEnd::kWritten : (full ? PutEnd::kFailed : PutEnd::kBroken));
    offered_.erase(write.key);
    if (done.status.ok()) {
      stats_.disk.write_bytes += scope_.page_bytes;
    } else {
      ++stats_.disk.write_errors;
      ++stats_.dropped_puts;
    }
    if (writing_.empty()) {
      stats_.disk.write_us += static_cast<uint64_t>(clock_->NowUs() - write_since_us_);
    }
  }
  if (!done.status.ok()) {
    TellNowAndThen(done.status.error().message() + "; the block is not kept on disk");
  }
}

// One line for whatever the disk has, not one a block.
void TieredStore::TellNowAndThen(const std::string& what) {
  const TimeUs now_us = clock_->NowUs();
  if (now_us < tell_after_us_) return;
  tell_after_us_ = now_us + kTryAgainUs;
  HM_LOG_WARN("KV store: {}", what);
}

// At the end: what has begun is finished, everything else is answered.
void TieredStore::GiveUp() {
  if (has_disk()) {
    done_.clear();
    const Status flushed = disk_->Flush(&done_);
    if (!flushed.ok()) TellNowAndThen(flushed.error().message());
    for (const SlotDone& done : done_) {
      done.kind == SlotDone::Kind::kRead ? FinishRead(done) : FinishWrite(done);
    }
  }
  const Error ending(ErrorCode::kCancelled, "the store is closing");
  for (const DiskWrite& write : writes_) EndWrite(write, ending);
  writes_.clear();
  std::vector<BlockTag> unserved;
  {
    std::lock_guard lock(mutex_);
    for (const BlockFetch& fetch : fetches_) unserved.push_back(fetch.tag);
    for (const BlockFetch& fetch : reads_) unserved.push_back(fetch.tag);
    for (const BlockOffer& offer : offers_) unserved.push_back(offer.tag);
    fetches_.clear();
    reads_.clear();
    offers_.clear();
  }
  for (const BlockTag tag : unserved) Complete(tag, ending);
}

}  // namespace halfmoon::store
