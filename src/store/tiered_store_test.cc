// SPDX-License-Identifier: Apache-2.0
#include "store/tiered_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "store/memory_folder_for_test.h"

namespace halfmoon::store {
namespace {

constexpr uint64_t kPageBytes = 4000;

kv::BlockKey Key(uint64_t n) { return {{.high = ~n, .low = n * 31}}; }
std::vector<std::byte> Page(uint64_t n) {
  std::vector<std::byte> page(kPageBytes);
  for (size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(n * 7 + i / 3);
  return page;
}

struct Budgets {
  uint64_t pool_slots = 0;
  uint64_t disk_slots = 0;
};

// A store with its consumer: waits for events.
class Store {
 public:
  explicit Store(const Budgets& budgets, std::shared_ptr<MemoryDisk> disk = nullptr,
                 const kv::CatalogOptions& catalog = {.lease_us = 0}) {
    TieredStoreOptions options{.scope = {.model_fingerprint = "m",
                                         .kv_format_version = 2,
                                         .block_size = 16,
                                         .page_bytes = kPageBytes},
                               .pool_bytes = budgets.pool_slots * 4096,
                               .disk_bytes = budgets.disk_slots * 12'288,
                               .catalog = catalog};
    if (disk != nullptr) options.folder = std::make_unique<MemoryFolder>(std::move(disk), 4);
    auto opened = TieredStore::Open(std::move(options), &clock_);
    HM_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message());
    store_ = std::move(opened).value();
    store_->SetWake([signal = signal_] {
      {
        std::lock_guard lock(signal->mutex);
        signal->raised = true;
      }
      signal->condition.notify_one();
    });
  }

  // How the one event that follows ended.
  Status Offer(uint64_t n) {
    const std::vector<std::byte> page = Page(n);
    StartOffer(n, &page);
    return Await(n);
  }
  void StartOffer(uint64_t n, const std::vector<std::byte>* page) {
    store_->Offer({.tag = BlockTag{n}, .key = Key(n), .page = *page});
  }
  Status Fetch(uint64_t n) {
    std::vector<std::byte> page(kPageBytes);
    const BlockFetch fetch{.tag = BlockTag{n}, .key = Key(n), .page = page};
    store_->Fetch(std::span(&fetch, 1));
    Status status = Await(n);
    EXPECT_TRUE(!status.ok() || page == Page(n)) << "wrong bytes of block " << n;
    return status;
  }
  Status Await(uint64_t tag) {
    for (;;) {
      std::vector<BlockEvent> events;
      store_->Poll(&events);
      for (BlockEvent& event : events) arrived_.emplace(event.tag, std::move(event.status));
      const auto it = arrived_.find(BlockTag{tag});
      if (it != arrived_.end()) {
        Status status = std::move(it->second);
        arrived_.erase(it);
        return status;
      }
      std::unique_lock lock(signal_->mutex);
      signal_->condition.wait(lock, [this] { return signal_->raised; });
      signal_->raised = false;
    }
  }
  int32_t Probe(uint64_t first, uint64_t count) {
    std::vector<kv::BlockKey> keys;
    for (uint64_t n = first; n < first + count; ++n) keys.push_back(Key(n));
    return store_->Probe(keys);
  }
  TieredStore& operator*() { return *store_; }
  TieredStore* operator->() { return store_.get(); }
  // Nothing has come that nobody waited for.
  bool quiet() {
    std::vector<BlockEvent> events;
    store_->Poll(&events);
    return events.empty() && arrived_.empty();
  }

 private:
  struct Signal {
    std::mutex mutex;
    std::condition_variable condition;
    bool raised = false;
  };
  MonotonicClock clock_;
  std::shared_ptr<Signal> signal_ = std::make_shared<Signal>();
  std::multimap<BlockTag, Status> arrived_;
  std::unique_ptr<TieredStore> store_;
};

constexpr TimeUs kLong = 60'000'000;

TEST(TieredStore, PoolOnly_KeepsWhatFits) {
  Store store({.pool_slots = 4});
  EXPECT_TRUE(store->Wants(Key(1)));
  EXPECT_TRUE(store.Offer(1).ok());
  EXPECT_FALSE(store->Wants(Key(1)));
  EXPECT_EQ(store.Probe(1, 2), 1);
  EXPECT_TRUE(store.Fetch(1).ok());
  EXPECT_EQ(store.Fetch(2).error().code(), ErrorCode::kNotFound);
  for (uint64_t n = 2; n < 10; ++n) EXPECT_TRUE(store.Offer(n).ok());
  EXPECT_EQ(store.Fetch(1).error().code(), ErrorCode::kNotFound);
  EXPECT_TRUE(store.Fetch(9).ok());
  const StoreStats stats = store->Stats();
  EXPECT_EQ(stats.dram.hits, 2u);
  EXPECT_EQ(stats.misses, 2u);
  EXPECT_LE(stats.dram.blocks, 4u);
  EXPECT_GT(stats.dram.evictions, 0u);
  EXPECT_TRUE(store.quiet());
}

TEST(TieredStore, BothTiers_WriteThroughAndPromote) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Store store({.pool_slots = 4, .disk_slots = 64}, disk);
    for (uint64_t n = 0; n < 20; ++n) EXPECT_TRUE(store.Offer(n).ok());
    ASSERT_TRUE(store->Flush(kLong));
    EXPECT_EQ(store->Stats().disk.blocks + store->Stats().dropped_puts, 20u);
  }
  Store store({.pool_slots = 4, .disk_slots = 64}, disk);
  const uint64_t found = store->Stats().found.blocks;
  EXPECT_GT(found, 0u);
  uint64_t last = 0;
  uint64_t right = 0;
  for (uint64_t n = 0; n < 20; ++n) {
    if (!store.Fetch(n).ok()) continue;
    ++right;
    last = n;
  }
  EXPECT_EQ(right, found);
  EXPECT_EQ(store->Stats().disk.hits, found);
  // The last of them is in the pool now.
  EXPECT_TRUE(store.Fetch(last).ok());
  EXPECT_EQ(store->Stats().dram.hits, 1u);
}

TEST(TieredStore, DiskOnly_KeepsEverythingAcrossARestart) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Store store({.disk_slots = 64}, disk);
    for (uint64_t n = 0; n < 20; ++n) EXPECT_TRUE(store.Offer(n).ok());
    EXPECT_FALSE(store->Wants(Key(19)));
    ASSERT_TRUE(store->Flush(kLong));
    for (uint64_t n = 0; n < 20; ++n) EXPECT_TRUE(store.Fetch(n).ok());
  }
  Store store({.disk_slots = 64}, disk);
  EXPECT_EQ(store.Probe(0, 30), 20);
  for (uint64_t n = 0; n < 20; ++n) EXPECT_TRUE(store.Fetch(n).ok());
  EXPECT_GT(store->FetchUs(std::vector{Key(1), Key(2)}), 0.0);
}

TEST(TieredStore, Changes_TellEachTierAndWhatWasRestored) {
  const auto disk = std::make_shared<MemoryDisk>();
  const kv::CatalogOptions tracked{.lease_us = 0, .track_changes = true};
  {
    Store store({.pool_slots = 4, .disk_slots = 64}, disk, tracked);
    EXPECT_TRUE(store.Offer(1).ok());
    ASSERT_TRUE(store->Flush(kLong));
    kv::CatalogChanges dram;
    EXPECT_FALSE(store->TakeChanges(kv::Tier::kDram, 100, &dram));
    EXPECT_EQ(dram.added, std::vector{Key(1)});
    for (uint64_t n = 2; n < 12; ++n) {
      EXPECT_TRUE(store.Offer(n).ok());
      ASSERT_TRUE(store->Flush(kLong));
    }
    dram = {};
    EXPECT_FALSE(store->TakeChanges(kv::Tier::kDram, 100, &dram));
    EXPECT_EQ(dram.removed, std::vector{Key(1)}) << "evicted from the pool, and on disk";
    kv::CatalogChanges on_disk;
    EXPECT_FALSE(store->TakeChanges(kv::Tier::kDisk, 100, &on_disk));
    EXPECT_EQ(on_disk.added.size(), 11u);
    EXPECT_TRUE(on_disk.removed.empty());
  }
  Store store({.disk_slots = 64}, disk, tracked);
  std::set<kv::BlockKey> told;
  kv::CatalogChanges changes;
  int takes = 1;
  for (; store->TakeChanges(kv::Tier::kDisk, 4, &changes); ++takes) {
    EXPECT_LE(changes.added.size(), static_cast<size_t>(takes) * 4);
  }
  EXPECT_GE(takes, 3);
  told.insert(changes.added.begin(), changes.added.end());
  EXPECT_EQ(told.size(), 11u);
  // Whoever comes later gets the same.
  std::vector<kv::BlockKey> listed;
  for (int32_t next = 0; store->ListTold(kv::Tier::kDisk, 3, &next, &listed);) {
  }
  EXPECT_EQ(std::set(listed.begin(), listed.end()), told);
}

TEST(TieredStore, FullDisk_KeepsServingAndSaysSo) {
  const auto disk = std::make_shared<MemoryDisk>();
  std::atomic<bool> full{false};
  disk->fail_create = [&]() -> Status {
    return full ? Status(Error(ErrorCode::kResourceExhausted, "no space left")) : Status();
  };
  disk->fail_transfer = [&](const DiskTransfer& transfer) -> Status {
    if (!full || transfer.kind == DiskTransfer::Kind::kRead) return {};
    return Error(ErrorCode::kResourceExhausted, "no space left");
  };
  Store store({.disk_slots = 64}, disk);
  EXPECT_TRUE(store.Offer(1).ok());
  ASSERT_TRUE(store->Flush(kLong));
  full = true;
  for (uint64_t n = 2; n < 6; ++n) (void)store.Offer(n);
  ASSERT_TRUE(store->Flush(kLong));
  EXPECT_TRUE(store.Fetch(1).ok());
  EXPECT_EQ(store.Fetch(3).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(store->Stats().dropped_puts, 4u);
  EXPECT_TRUE(store->Wants(Key(3)));
  full = false;
  EXPECT_TRUE(store.Offer(3).ok());
  ASSERT_TRUE(store->Flush(kLong));
  EXPECT_TRUE(store.Fetch(3).ok());
}

TEST(TieredStore, ReadThatFails_IsAMissAndTheBlockGoes) {
  const auto disk = std::make_shared<MemoryDisk>();
  std::atomic<bool> broken{false};
  disk->fail_transfer = [&](const DiskTransfer& transfer) -> Status {
    if (!broken || transfer.kind == DiskTransfer::Kind::kWrite) return {};
    return Error(ErrorCode::kIo, "cannot read");
  };
  Store store({.disk_slots = 64}, disk);
  EXPECT_TRUE(store.Offer(1).ok());
  ASSERT_TRUE(store->Flush(kLong));
  broken = true;
  EXPECT_EQ(store.Fetch(1).error().code(), ErrorCode::kIo);
  EXPECT_EQ(store.Fetch(1).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(store->Stats().disk.read_errors, 1u);
  broken = false;
  EXPECT_TRUE(store->Wants(Key(1)));
}

// A disk whose transfers wait until the gate opens.
class Gate {
 public:
  Status Pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    return {};
  }
  void AwaitOne() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }
  void Open() {
    {
      std::lock_guard lock(mutex_);
      open_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
};

TEST(TieredStore, Cancelled_EndsAtOnceUnlessItHasBegun) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Store store({.disk_slots = 64}, disk);
    for (uint64_t n = 0; n < 12; ++n) EXPECT_TRUE(store.Offer(n).ok());
    ASSERT_TRUE(store->Flush(kLong));
  }
  Gate gate;
  disk->fail_transfer = [](const DiskTransfer&) -> Status { return {}; };
  Store store({.disk_slots = 64}, disk);
  // Before the first transfer of this store.
  disk->fail_transfer = [&](const DiskTransfer&) { return gate.Pass(); };
  std::vector<std::vector<std::byte>> pages(12, std::vector<std::byte>(kPageBytes));
  std::vector<BlockFetch> fetches;
  std::vector<BlockTag> tags;
  for (uint64_t n = 0; n < 12; ++n) {
    fetches.push_back({.tag = BlockTag{n}, .key = Key(n), .page = pages[n]});
    tags.push_back(BlockTag{n});
  }
  store->Fetch(fetches);
  gate.AwaitOne();
  store->Cancel(tags);
  int cancelled = 0;
  // Those that have not begun: the depth is 4.
  for (uint64_t n = 4; n < 12; ++n) {
    const Status status = store.Await(n);
    ASSERT_FALSE(status.ok());
    cancelled += status.error().code() == ErrorCode::kCancelled ? 1 : 0;
  }
  EXPECT_EQ(cancelled, 8);
  gate.Open();
  for (uint64_t n = 0; n < 4; ++n) {
    EXPECT_TRUE(store.Await(n).ok());
    EXPECT_EQ(pages[n], Page(n));
  }
  EXPECT_TRUE(store.quiet());
}

TEST(TieredStore, DestroyedWithWorkInFlight_ReturnsAndWhatWasWrittenIsThere) {
  const auto disk = std::make_shared<MemoryDisk>();
  std::vector<std::vector<std::byte>> pages;
  for (uint64_t n = 0; n < 50; ++n) pages.push_back(Page(n));
  {
    Store store({.disk_slots = 64}, disk);
    for (uint64_t n = 0; n < 50; ++n) store.StartOffer(n, &pages[n]);
  }
  Store store({.disk_slots = 64}, disk);
  for (uint64_t n = 0; n < 50; ++n) (void)store.Fetch(n);
  EXPECT_EQ(store->Stats().disk.corrupt_blocks, 0u);
}

TEST(TieredStore, NoTierThatHoldsABlock_InvalidArgument) {
  const MonotonicClock clock;
  const auto opened =
      TieredStore::Open({.scope = {.page_bytes = 5000}, .pool_bytes = 5000}, &clock);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::kInvalidArgument);
}

// Offers, fetches, cancels and restarts at random over a disk that fails at random: a fetch gives
// the right bytes or none, and everything that was asked for ends once.
TEST(TieredStore, RandomUse_NeverGivesWrongBytes) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<uint64_t>(random() % n); };
    const auto disk = std::make_shared<MemoryDisk>();
    std::atomic<uint32_t> calls{seed};
    disk->fail_transfer = [&](const DiskTransfer&) -> Status {
      // A fixed sequence of failures, one in 16.
      const uint32_t n = ++calls * 2654435761u;
      if (n >> 28 != 0) return {};
      return Error((n >> 27 & 1) != 0 ? ErrorCode::kIo : ErrorCode::kResourceExhausted, "no");
    };
    uint64_t right = 0;
    for (int life = 0; life < 4; ++life) {
      Store store({.pool_slots = seed % 3 * 4, .disk_slots = 16}, disk);
      std::map<uint64_t, std::pair<uint64_t, std::vector<std::byte>>> open;  // by tag
      std::set<uint64_t> offers;
      uint64_t next_tag = 1;
      for (int step = 0; step < 400; ++step) {
        const uint64_t n = below(40);
        if (below(2) == 0) {
          if (!store->Wants(Key(n))) continue;
          auto& [key, page] = open[next_tag] = {n, Page(n)};
          offers.insert(next_tag);
          store->Offer({.tag = BlockTag{next_tag}, .key = Key(n), .page = page});
          ++next_tag;
        } else {
          auto& [key, page] = open[next_tag] = {n, std::vector<std::byte>(kPageBytes)};
          const BlockFetch fetch{.tag = BlockTag{next_tag}, .key = Key(n), .page = page};
          store->Fetch(std::span(&fetch, 1));
          if (below(8) == 0) store->Cancel(std::vector{BlockTag{next_tag}});
          ++next_tag;
        }
        while (open.size() > below(12)) {
          const uint64_t tag = open.begin()->first;
          const Status status = store.Await(tag);
          const auto& [key, page] = open.at(tag);
          if (status.ok()) {
            EXPECT_EQ(page, Page(key));
            right += offers.contains(tag) ? 0 : 1;
          }
          open.erase(tag);
        }
      }
      while (!open.empty()) {
        (void)store.Await(open.begin()->first);
        open.erase(open.begin());
      }
      EXPECT_TRUE(store.quiet());
      ASSERT_TRUE(store->Flush(kLong));
      EXPECT_EQ(store->Stats().pending_puts, 0u);
    }
    EXPECT_GT(right, 50u);
  }
}

}  // namespace
}  // namespace halfmoon::store
