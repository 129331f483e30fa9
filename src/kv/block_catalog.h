// SPDX-License-Identifier: Apache-2.0
// Which KV block has a copy in which slot of which tier, and which copies go when room is needed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "kv/block_key.h"

namespace halfmoon::kv {

/// Where copies lie, fastest first.
enum class Tier : uint8_t { kDram, kDisk };
inline constexpr std::array<Tier, 2> kTiers = {Tier::kDram, Tier::kDisk};

/// A place for one block in a tier.
enum class SlotId : int32_t {};

constexpr int32_t ToIndex(SlotId slot) { return static_cast<int32_t>(slot); }

/// How long a block is to be kept in place.
enum class Pin : uint8_t {
  kNone,
  kSoft,  ///< evicted only where nothing without a pin is left
  kHard,  ///< never evicted
};

struct CatalogOptions {
  double watermark = 0.90;  ///< part of a tier's slots that may be taken before some are freed
  double pass = 0.05;       ///< part of them that is freed at once, so that it happens seldom
  TimeUs put_timeout_us = 30'000'000;  ///< a put that takes longer is discarded
  TimeUs lease_us = 5'000'000;         ///< how long a block stays that was found
  bool track_changes = false;          ///< TakeChanges tells of copies that come and go
};

/// How a tier differs from what was told of it before.
struct CatalogChanges {
  std::vector<BlockKey> added;    ///< some may have been told before
  std::vector<BlockKey> removed;  ///< none of them has a copy in the tier now
};

/// Counters since the start.
struct CatalogStats {
  uint64_t evictions = 0;
  uint64_t stale_puts = 0;  ///< discarded because they did not end in time
  uint64_t refusals = 0;    ///< puts for which no slot could be freed
};

/// Bookkeeping only: it touches no bytes, reads no clock and starts no thread. A slot is free,
/// being written, ready, or on its way out: a copy that went while somebody reads it, and a put
/// that went while somebody writes it, keep their slot until they have ended. The number of slots
/// is the budget, and nothing exceeds it.
///
/// Of ready copies those go first that were used longest ago, except those that are pinned, leased
/// or being read. Not thread-safe.
class BlockCatalog {
 public:
  explicit BlockCatalog(const CatalogOptions& options) : options_(options) {}

  /// A slot that AddSlots is about to add holds this block: what a tier remembers from before,
  /// least recently used first. False where the tier has a copy already; the slot is then free.
  bool Restore(const BlockKey& key, Tier tier, SlotId slot);
  /// Slots [first, first + count) of the tier exist from now on and are free, but for what was
  /// restored. Requires that they are new.
  void AddSlots(Tier tier, SlotId first, int32_t count);

  /// How many leading keys have a copy somewhere. They count as used now and are leased; the first
  /// as used last, so that the end of a prefix is evicted before its beginning.
  int32_t Probe(std::span<const BlockKey> keys, TimeUs now_us);
  bool Has(const BlockKey& key, Tier tier) const { return CopyOf(key, tier).has_value(); }
  /// Whether the tier is being written this block.
  bool IsPutting(const BlockKey& key, Tier tier) const;

  /// A slot to write the block to; to be followed by EndPut. nullopt where the tier has the block,
  /// somebody is writing it (the first put wins), or no slot can be freed.
  std::optional<SlotId> BeginPut(const BlockKey& key, Tier tier, TimeUs now_us);
  /// The write has ended. True where the block is ready now; false where it failed or was discarded
  /// meanwhile. A slot that is `broken` is not used again.
  enum class PutEnd { kWritten, kFailed, kBroken };
  bool EndPut(Tier tier, SlotId slot, PutEnd end);
  /// Discards puts that have taken too long; their keys may be put again.
  void DropStalePuts(TimeUs now_us);

  /// The slot with the block, which stays what it is until EndRead; counts as used now. nullopt
  /// where the tier has no copy.
  std::optional<SlotId> BeginRead(const BlockKey& key, Tier tier);
  /// A read has ended. Where the bytes were not `good`, the copy goes.
  void EndRead(Tier tier, SlotId slot, bool good);

  /// Requires a copy in some tier, else nothing happens. The pin goes with the last copy.
  void SetPin(const BlockKey& key, Pin pin);

  /// Appends what has come to the tier's slots and left them since that was told last; looks at
  /// `most` of the slots that have changed. What came and went in between is told only as it is
  /// now, so what waits to be told is never more than there are slots. True where more waits.
  /// Nothing comes without CatalogOptions::track_changes.
  bool TakeChanges(Tier tier, int32_t most, CatalogChanges* changes);
  /// Appends what has been told of `most` slots from *next on, which moves on behind them; true
  /// where slots are left. Who applies this and, from before the first call on, everything that
  /// TakeChanges tells, removals last, knows in the end what the tier has.
  bool ListTold(Tier tier, int32_t most, int32_t* next, std::vector<BlockKey>* keys) const;

  int32_t num_slots(Tier tier) const { return Of(tier).num_slots; }
  int32_t num_free(Tier tier) const { return static_cast<int32_t>(Of(tier).free.size()); }
  int32_t num_ready(Tier tier) const { return Of(tier).num_ready; }
  const CatalogStats& stats(Tier tier) const { return Of(tier).stats; }
  /// Whether the next put may have to evict.
  bool IsNearlyFull(Tier tier) const;

 private:
  static constexpr int32_t kNone = -1;
  enum class State : uint8_t { kAbsent, kFree, kWriting, kDiscarded, kReady, kLeaving, kBroken };
  struct Slot {
    BlockKey key;
    State state = State::kAbsent;
    int32_t readers = 0;
    int32_t older = kNone;  // neighbours in the order of use
    int32_t younger = kNone;
    TimeUs started_us = 0;  // of a put
  };
  /// What somebody knows of a slot.
  struct Told {
    BlockKey key;
    bool has_key = false;
    bool waits = false;  // the slot is in `changed`
  };
  struct TierState {
    std::vector<Slot> slots;
    std::vector<Told> told;       // by slot, as far as any has changed; empty: not tracked
    std::deque<int32_t> changed;  // slots to tell of, each once
    std::vector<int32_t> free;    // last in, first out
    int32_t num_slots = 0;
    int32_t num_ready = 0;
    int32_t oldest = kNone;
    int32_t youngest = kNone;
    std::vector<int32_t> puts;  // in progress, in order of their start
    CatalogStats stats;
  };
  struct Entry {
    std::array<int32_t, kTiers.size()> ready = {kNone, kNone};
    std::array<int32_t, kTiers.size()> writing = {kNone, kNone};
    Pin pin = Pin::kNone;
    TimeUs leased_until_us = INT64_MIN;
  };

  TierState& Of(Tier tier) { return tiers_[static_cast<size_t>(tier)]; }
  const TierState& Of(Tier tier) const { return tiers_[static_cast<size_t>(tier)]; }
  Slot& At(Tier tier, SlotId slot);
  std::optional<SlotId> CopyOf(const BlockKey& key, Tier tier) const;
  void Append(TierState* tier, int32_t slot);
  void Unlink(TierState* tier, int32_t slot);
  void Touch(const Entry& entry);
  void MakeRoom(Tier tier, TimeUs now_us);
  int32_t EvictOldest(Tier tier, int32_t count, Pin most, TimeUs now_us);
  void MakeReady(const BlockKey& key, Tier tier, int32_t slot);
  void RemoveCopy(Tier tier, int32_t slot);
  void NoteChange(TierState* tier, int32_t slot) const;
  std::optional<SlotId> Tell(Tier tier, int32_t slot, CatalogChanges* changes);
  void ForgetIfEmpty(const BlockKey& key);

  const CatalogOptions options_;
  std::array<TierState, kTiers.size()> tiers_;
  std::unordered_map<BlockKey, Entry> entries_;
};

}  // namespace halfmoon::kv
