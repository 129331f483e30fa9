// SPDX-License-Identifier: Apache-2.0
// The KV blocks that this node keeps beside the pages in use: a pool of memory, and a disk below
// it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "kv/block_catalog.h"
#include "store/block_store.h"
#include "store/segment_folder.h"
#include "store/segment_store.h"
#include "store/store_stats.h"
#include "tensor/tensor.h"

namespace halfmoon::store {

struct TieredStoreOptions {
  PageScope scope;
  uint64_t pool_bytes = 0;                ///< of the DRAM pool, whole slots; below one: no pool
  std::unique_ptr<SegmentFolder> folder;  ///< null: no disk
  uint64_t disk_bytes = 0;                ///< budget of the folder's segments
  kv::CatalogOptions catalog;
};

/// Offers are copied into the pool and written through to the disk behind that; fetches come from
/// the pool, else from the disk, and then go into the pool as well. Every copy carries a checksum
/// over key and bytes that is compared before it is used. One thread of its own moves all bytes;
/// the functions of BlockStore are for one thread and only book; Stats, TakeChanges, ListTold and
/// Flush are for any.
class TieredStore final : public BlockStore {
 public:
  /// The clock outlives the store. Errors: kInvalidArgument where a budget holds no block,
  /// kResourceExhausted where memory for the pool cannot be had, those of SegmentStore::Open.
  static Result<std::unique_ptr<TieredStore>> Open(TieredStoreOptions options, const Clock* clock);
  /// Ends what is in flight. Writes that have not begun are given up; see Flush.
  ~TieredStore() override;
  TieredStore(const TieredStore&) = delete;
  TieredStore& operator=(const TieredStore&) = delete;

  int32_t Probe(std::span<const kv::BlockKey> keys) override;
  double FetchUs(std::span<const kv::BlockKey> keys) override;
  void Fetch(std::span<const BlockFetch> blocks) override;
  void Cancel(std::span<const BlockTag> tags) override;
  void Poll(std::vector<BlockEvent>* events) override;
  void SetWake(std::function<void()> wake) override;
  bool Wants(const kv::BlockKey& key) override;
  void Offer(const BlockOffer& block) override;

  /// Keeps a block in place, or lets it go again. Blocks that are not here are passed over.
  void SetPin(const kv::BlockKey& key, kv::Pin pin);
  /// Waits until all that was offered is written, at most this long. False where time ran out.
  bool Flush(TimeUs timeout_us);
  StoreStats Stats() const override;
  bool TakeChanges(kv::Tier tier, int32_t most, kv::CatalogChanges* changes) override;
  bool ListTold(kv::Tier tier, int32_t most, int32_t* next,
                std::vector<kv::BlockKey>* keys) const override;
  /// For people: "io_uring, direct I/O"; empty without a disk.
  const std::string& disk_method() const { return disk_method_; }

 private:
  // A block on its way to the disk, from a copy in the pool or from the page that was offered.
  struct DiskWrite {
    kv::BlockKey key;
    std::optional<kv::SlotId> from_pool;
    BlockOffer offer;  // where not from the pool
  };
  TieredStore(TieredStoreOptions options, const Clock* clock);
  Status Start();

  // tiered_store_mover.cc: mover thread.
  void Run();
  bool TakeCommands(std::vector<BlockFetch>* fetches, std::vector<BlockOffer>* offers);
  void ServeFetch(const BlockFetch& fetch);
  void ServeOffer(const BlockOffer& offer);
  bool PutIntoPool(const kv::BlockKey& key, std::span<const std::byte> page);
  void StartReads();
  void StartWrites();
  bool HasSlotToWrite();
  void GrowDisk();
  void EndWrite(const DiskWrite& write, Status status);
  void FinishDisk(bool wait);
  void FinishRead(const SlotDone& done);
  void FinishWrite(const SlotDone& done);
  void Complete(BlockTag tag, Status status, std::optional<kv::Tier> tier = std::nullopt);
  void TellNowAndThen(const std::string& what);
  void GiveUp();
  bool has_disk() const { return disk_ != nullptr; }
  bool has_pool() const { return pool_slots_ > 0; }
  std::span<std::byte> PoolSlot(kv::SlotId slot);

  const PageScope scope_;
  const Clock* const clock_;
  const uint64_t disk_budget_bytes_;
  int32_t pool_slots_ = 0;
  std::string disk_method_;

  // Mover thread only, once that runs.
  tensor::AlignedBuffer pool_;
  std::vector<Hash128> pool_checksums_;
  std::unique_ptr<SegmentFolder> folder_;
  std::unique_ptr<SegmentStore> disk_;
  std::deque<DiskWrite> writes_;                      // to be written to disk
  std::unordered_map<uint64_t, BlockFetch> reading_;  // by tag of the disk
  std::unordered_map<uint64_t, DiskWrite> writing_;
  std::vector<SlotDone> done_;
  uint64_t next_tag_ = 1;
  TimeUs grow_after_us_ = INT64_MIN;
  TimeUs tell_after_us_ = INT64_MIN;
  TimeUs read_since_us_ = 0;
  TimeUs write_since_us_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable quiet_;
  kv::BlockCatalog catalog_;                  // GUARDED_BY(mutex_)
  std::deque<BlockFetch> fetches_;            // GUARDED_BY(mutex_)
  std::deque<BlockFetch> reads_;              // GUARDED_BY(mutex_): to be read from disk
  std::deque<BlockOffer> offers_;             // GUARDED_BY(mutex_)
  std::unordered_set<kv::BlockKey> offered_;  // GUARDED_BY(mutex_): on their way to a tier
  std::vector<BlockEvent> events_;            // GUARDED_BY(mutex_)
  std::function<void()> wake_;                // GUARDED_BY(mutex_) until it is set
  StoreStats stats_;                          // GUARDED_BY(mutex_)
  bool busy_ = false;                         // GUARDED_BY(mutex_): something is not written yet
  bool stop_ = false;                         // GUARDED_BY(mutex_)
  std::thread mover_;
};

}  // namespace halfmoon::store
