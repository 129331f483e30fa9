// SPDX-License-Identifier: Apache-2.0
#include "kv/block_catalog.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace halfmoon::kv {
namespace {

using PutEnd = BlockCatalog::PutEnd;

BlockKey Key(uint64_t n) { return BlockKey{{.high = n, .low = n * 7919}}; }

// One tier of `slots` without a watermark, so that evictions happen when it is full.
BlockCatalog Dram(int32_t slots, CatalogOptions options = {.watermark = 1.0, .pass = 0.0}) {
  BlockCatalog catalog(options);
  catalog.AddSlots(Tier::kDram, SlotId{0}, slots);
  return catalog;
}

void Put(BlockCatalog* catalog, uint64_t key, TimeUs now = 0, Tier tier = Tier::kDram) {
  const std::optional<SlotId> slot = catalog->BeginPut(Key(key), tier, now);
  ASSERT_TRUE(slot.has_value()) << key;
  ASSERT_TRUE(catalog->EndPut(tier, *slot, PutEnd::kWritten));
}

TEST(BlockCatalog, Put_FirstWinsAndIsFoundWhenItEnds) {
  BlockCatalog catalog = Dram(4);
  const std::optional<SlotId> slot = catalog.BeginPut(Key(1), Tier::kDram, 0);
  ASSERT_TRUE(slot.has_value());
  EXPECT_FALSE(catalog.BeginPut(Key(1), Tier::kDram, 0).has_value());
  EXPECT_TRUE(catalog.IsPutting(Key(1), Tier::kDram));
  EXPECT_EQ(catalog.Probe(std::vector{Key(1)}, 0), 0);
  EXPECT_TRUE(catalog.EndPut(Tier::kDram, *slot, PutEnd::kWritten));
  EXPECT_EQ(catalog.Probe(std::vector{Key(1), Key(2)}, 0), 1);
  EXPECT_FALSE(catalog.BeginPut(Key(1), Tier::kDram, 0).has_value());
}

TEST(BlockCatalog, PutThatTakesTooLong_IsDiscardedAndItsSlotStaysUntilItEnds) {
  BlockCatalog catalog = Dram(1);
  const std::optional<SlotId> slot = catalog.BeginPut(Key(1), Tier::kDram, 0);
  catalog.DropStalePuts(29'999'999);
  EXPECT_TRUE(catalog.IsPutting(Key(1), Tier::kDram));
  catalog.DropStalePuts(30'000'000);
  EXPECT_FALSE(catalog.IsPutting(Key(1), Tier::kDram));
  EXPECT_EQ(catalog.stats(Tier::kDram).stale_puts, 1u);
  // Somebody may still be writing to the only slot.
  EXPECT_FALSE(catalog.BeginPut(Key(1), Tier::kDram, 30'000'000).has_value());
  EXPECT_FALSE(catalog.EndPut(Tier::kDram, *slot, PutEnd::kWritten));
  EXPECT_FALSE(catalog.Has(Key(1), Tier::kDram));
  EXPECT_TRUE(catalog.BeginPut(Key(1), Tier::kDram, 30'000'000).has_value());
}

TEST(BlockCatalog, BrokenSlot_IsNotUsedAgain) {
  BlockCatalog catalog = Dram(2);
  const std::optional<SlotId> slot = catalog.BeginPut(Key(1), Tier::kDram, 0);
  EXPECT_FALSE(catalog.EndPut(Tier::kDram, *slot, PutEnd::kBroken));
  EXPECT_EQ(catalog.num_free(Tier::kDram), 1);
  Put(&catalog, 2);
  Put(&catalog, 3);  // evicts the other one
  EXPECT_FALSE(catalog.Has(Key(2), Tier::kDram));
}

TEST(BlockCatalog, Eviction_TakesTheOldestThatIsFreeToGo) {
  BlockCatalog catalog = Dram(5);
  for (uint64_t key = 1; key <= 5; ++key) Put(&catalog, key);
  catalog.SetPin(Key(1), Pin::kHard);
  catalog.SetPin(Key(2), Pin::kSoft);
  EXPECT_EQ(catalog.Probe(std::vector{Key(3)}, 0), 1);  // leased, and the youngest
  const std::optional<SlotId> reading = catalog.BeginRead(Key(4), Tier::kDram);
  Put(&catalog, 6, 1);
  EXPECT_FALSE(catalog.Has(Key(5), Tier::kDram));
  Put(&catalog, 7, 1);
  EXPECT_FALSE(catalog.Has(Key(6), Tier::kDram));
  EXPECT_TRUE(catalog.Has(Key(2), Tier::kDram));
  catalog.SetPin(Key(7), Pin::kHard);
  Put(&catalog, 8, 1);  // nothing without a pin is left
  EXPECT_FALSE(catalog.Has(Key(2), Tier::kDram));
  catalog.SetPin(Key(8), Pin::kHard);
  EXPECT_FALSE(catalog.BeginPut(Key(9), Tier::kDram, 1).has_value());
  EXPECT_EQ(catalog.stats(Tier::kDram).refusals, 1u);
  // The lease ends, then the read.
  Put(&catalog, 9, 5'000'000);
  EXPECT_FALSE(catalog.Has(Key(3), Tier::kDram));
  EXPECT_TRUE(catalog.Has(Key(4), Tier::kDram));
  catalog.EndRead(Tier::kDram, *reading, true);
  Put(&catalog, 10, 5'000'000);
  Put(&catalog, 11, 5'000'000);
  EXPECT_FALSE(catalog.Has(Key(4), Tier::kDram));
}

TEST(BlockCatalog, Watermark_FreesAPassOfSlots) {
  BlockCatalog catalog = Dram(100, {});
  for (uint64_t key = 1; key <= 90; ++key) Put(&catalog, key);
  EXPECT_EQ(catalog.stats(Tier::kDram).evictions, 0u);
  Put(&catalog, 91);
  EXPECT_EQ(catalog.stats(Tier::kDram).evictions, 5u);
  EXPECT_EQ(catalog.num_ready(Tier::kDram), 86);
}

TEST(BlockCatalog, ProbedPrefix_LosesItsEndFirst) {
  BlockCatalog catalog = Dram(3);
  for (uint64_t key = 1; key <= 3; ++key) Put(&catalog, key);
  EXPECT_EQ(catalog.Probe(std::vector{Key(1), Key(2), Key(3)}, 0), 3);
  Put(&catalog, 4, 10'000'000);
  EXPECT_EQ(catalog.Probe(std::vector{Key(1), Key(2), Key(3)}, 10'000'000), 2);
}

TEST(BlockCatalog, BadCopy_GoesWhenItsReadersHaveEnded) {
  BlockCatalog catalog = Dram(1);
  Put(&catalog, 1);
  const std::optional<SlotId> first = catalog.BeginRead(Key(1), Tier::kDram);
  const std::optional<SlotId> second = catalog.BeginRead(Key(1), Tier::kDram);
  catalog.EndRead(Tier::kDram, *first, false);
  EXPECT_FALSE(catalog.Has(Key(1), Tier::kDram));
  EXPECT_FALSE(catalog.BeginPut(Key(2), Tier::kDram, 0).has_value());
  catalog.EndRead(Tier::kDram, *second, true);
  EXPECT_TRUE(catalog.BeginPut(Key(2), Tier::kDram, 0).has_value());
}

TEST(BlockCatalog, Restore_TakesSlotsInTheOrderOfUse) {
  BlockCatalog catalog({.watermark = 1.0, .pass = 0.0});
  EXPECT_TRUE(catalog.Restore(Key(1), Tier::kDisk, SlotId{2}));
  EXPECT_TRUE(catalog.Restore(Key(2), Tier::kDisk, SlotId{0}));
  EXPECT_FALSE(catalog.Restore(Key(1), Tier::kDisk, SlotId{1}));
  catalog.AddSlots(Tier::kDisk, SlotId{0}, 3);
  EXPECT_EQ(catalog.num_free(Tier::kDisk), 1);
  EXPECT_EQ(catalog.BeginRead(Key(1), Tier::kDisk), SlotId{2});
  catalog.EndRead(Tier::kDisk, SlotId{2}, true);
  Put(&catalog, 3, 0, Tier::kDisk);
  Put(&catalog, 4, 0, Tier::kDisk);
  EXPECT_FALSE(catalog.Has(Key(2), Tier::kDisk));
  EXPECT_TRUE(catalog.Has(Key(1), Tier::kDisk));
}

TEST(BlockCatalog, Changes_TellRestoredBlocksPieceByPieceAndOnlyWhereTracked) {
  for (const bool tracked : {false, true}) {
    BlockCatalog catalog({.watermark = 1.0, .pass = 0.0, .track_changes = tracked});
    for (int32_t slot = 0; slot < 5; ++slot) {
      EXPECT_TRUE(catalog.Restore(Key(static_cast<uint64_t>(slot)), Tier::kDisk, SlotId{slot}));
    }
    catalog.AddSlots(Tier::kDisk, SlotId{0}, 5);
    CatalogChanges changes;
    EXPECT_EQ(catalog.TakeChanges(Tier::kDisk, 2, &changes), tracked);
    EXPECT_EQ(changes.added.size(), tracked ? 2u : 0u);
    EXPECT_FALSE(catalog.TakeChanges(Tier::kDisk, 3, &changes));
    EXPECT_EQ(changes.added.size(), tracked ? 5u : 0u);
    EXPECT_TRUE(changes.removed.empty());
  }
}

TEST(BlockCatalog, BlockThatMovesToAnotherSlot_IsNotToldAsGone) {
  BlockCatalog catalog = Dram(2, {.watermark = 1.0, .pass = 0.0, .track_changes = true});
  Put(&catalog, 1);
  Put(&catalog, 2);
  CatalogChanges changes;
  EXPECT_FALSE(catalog.TakeChanges(Tier::kDram, 10, &changes));
  Put(&catalog, 3);  // in place of 1
  Put(&catalog, 1);  // in place of 2
  changes = {};
  EXPECT_FALSE(catalog.TakeChanges(Tier::kDram, 10, &changes));
  EXPECT_EQ(std::set(changes.added.begin(), changes.added.end()), (std::set{Key(1), Key(3)}));
  EXPECT_EQ(changes.removed, std::vector{Key(2)});
}

// What the catalog is to do, without any index: every copy in one list.
class Oracle {
 public:
  struct Copy {
    uint64_t key = 0;
    bool ready = false;
    bool discarded = false;
    bool leaving = false;
    int readers = 0;
    uint64_t used = 0;
    TimeUs started = 0;
  };

  Oracle(const CatalogOptions& options, int32_t slots) : options_(options), slots_(slots) {}

  Copy* Find(uint64_t key, Tier tier, bool ready) {
    for (auto& [slot, copy] : copies_[tier]) {
      if (copy.key == key && !copy.discarded && !copy.leaving && copy.ready == ready) return &copy;
    }
    return nullptr;
  }

  int32_t Probe(const std::vector<uint64_t>& keys, TimeUs now) {
    size_t found = 0;
    while (found < keys.size() && (Find(keys[found], Tier::kDram, true) != nullptr ||
                                   Find(keys[found], Tier::kDisk, true) != nullptr)) {
      lease_[keys[found++]] = now + options_.lease_us;
    }
    for (size_t i = found; i > 0; --i) Touch(keys[i - 1]);
    return static_cast<int32_t>(found);
  }

  // Whether a put may begin; evicts as the catalog should.
  bool MayPut(uint64_t key, Tier tier, TimeUs now) {
    if (Find(key, tier, true) != nullptr || Find(key, tier, false) != nullptr) return false;
    auto& copies = copies_[tier];
    if (static_cast<double>(copies.size()) + 1.0 > options_.watermark * slots_) {
      Evict(tier, std::max(1, static_cast<int>(options_.pass * slots_)), Pin::kNone, now);
      if (static_cast<int32_t>(copies.size()) == slots_) Evict(tier, 1, Pin::kSoft, now);
    }
    return static_cast<int32_t>(copies.size()) < slots_;
  }
  void Put(uint64_t key, Tier tier, SlotId slot, TimeUs now) {
    copies_[tier][slot] = {.key = key, .started = now};
  }
  bool EndPut(Tier tier, SlotId slot, bool written) {
    Copy& copy = copies_[tier].at(slot);
    if (copy.discarded || !written) {
      const bool discarded = copy.discarded;
      const uint64_t key = copy.key;
      copies_[tier].erase(slot);
      if (!discarded) Forget(key);
      return false;
    }
    copy.ready = true;
    copy.used = ++clock_;
    return true;
  }
  void DropStale(TimeUs now) {
    for (Tier tier : kTiers) {
      for (auto& [slot, copy] : copies_[tier]) {
        if (copy.ready || copy.discarded || now - copy.started < options_.put_timeout_us) continue;
        copy.discarded = true;
        Forget(copy.key);
      }
    }
  }
  void BeginRead(uint64_t key, Tier tier) {
    ++Find(key, tier, true)->readers;
    Touch(key);
  }
  void EndRead(Tier tier, SlotId slot, bool good) {
    Copy& copy = copies_[tier].at(slot);
    --copy.readers;
    if (!good && !copy.leaving) {
      copy.leaving = true;
      Forget(copy.key);
    }
    if (copy.readers == 0 && copy.leaving) copies_[tier].erase(slot);
  }
  void SetPin(uint64_t key, Pin pin) {
    if (Known(key)) pins_[key] = pin;
  }
  const std::map<SlotId, Copy>& copies(Tier tier) { return copies_[tier]; }

 private:
  bool Known(uint64_t key) {
    for (Tier tier : kTiers) {
      if (Find(key, tier, true) != nullptr || Find(key, tier, false) != nullptr) return true;
    }
    return false;
  }
  void Forget(uint64_t key) {
    if (Known(key)) return;
    pins_.erase(key);
    lease_.erase(key);
  }
  void Touch(uint64_t key) {
    for (Tier tier : kTiers) {
      if (Copy* copy = Find(key, tier, true); copy != nullptr) copy->used = ++clock_;
    }
  }
  void Evict(Tier tier, int count, Pin most, TimeUs now) {
    for (; count > 0; --count) {
      std::optional<SlotId> oldest;
      for (const auto& [slot, copy] : copies_[tier]) {
        if (!copy.ready || copy.leaving || copy.readers > 0 || pins_[copy.key] > most) continue;
        if (lease_.contains(copy.key) && lease_[copy.key] > now) continue;
        if (!oldest || copy.used < copies_[tier].at(*oldest).used) oldest = slot;
      }
      if (!oldest) return;
      const uint64_t key = copies_[tier].at(*oldest).key;
      copies_[tier].erase(*oldest);
      Forget(key);
    }
  }

  const CatalogOptions options_;
  const int32_t slots_;
  uint64_t clock_ = 0;
  std::map<Tier, std::map<SlotId, Copy>> copies_;
  std::map<uint64_t, Pin> pins_;
  std::map<uint64_t, TimeUs> lease_;
};

// Somebody who knows of a tier what was told, from when it came on.
class Listener {
 public:
  void Take(const CatalogChanges& changes) {
    known_.insert(changes.added.begin(), changes.added.end());
    for (const BlockKey& key : changes.removed) known_.erase(key);
  }
  /// A part of what was told before it came.
  void List(const BlockCatalog& catalog, Tier tier, int32_t most) {
    std::vector<BlockKey> keys;
    listing_ = listing_ && catalog.ListTold(tier, most, &next_, &keys);
    known_.insert(keys.begin(), keys.end());
  }
  bool listing() const { return listing_; }
  const std::set<BlockKey>& known() const { return known_; }

 private:
  std::set<BlockKey> known_;
  int32_t next_ = 0;
  bool listing_ = true;
};

TEST(BlockCatalog, RandomOperations_AreThoseOfTheOracle) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    const int32_t slots = 1 + below(24);
    const CatalogOptions options{.watermark = below(2) == 0 ? 0.9 : 1.0,
                                 .pass = below(2) == 0 ? 0.05 : 0.3,
                                 .put_timeout_us = 40,
                                 .lease_us = 10,
                                 .track_changes = true};
    BlockCatalog catalog(options);
    std::map<Tier, std::vector<Listener>> listeners;
    for (Tier tier : kTiers) catalog.AddSlots(tier, SlotId{0}, slots);
    Oracle oracle(options, slots);
    std::vector<std::pair<Tier, SlotId>> puts;
    std::vector<std::pair<Tier, SlotId>> reads;
    TimeUs now = 0;
    const auto take = [&](auto* from) {
      const auto it = from->begin() + below(static_cast<int>(from->size()));
      const auto taken = *it;
      from->erase(it);
      return taken;
    };
    for (int step = 0; step < 3000; ++step) {
      now += below(3);
      const auto key = static_cast<uint64_t>(1 + below(40));
      const Tier tier = kTiers[static_cast<size_t>(below(2))];
      switch (below(9)) {
        case 8: {
          if (below(20) == 0) listeners[tier].emplace_back();
          CatalogChanges changes;
          (void)catalog.TakeChanges(tier, below(4), &changes);
          for (Listener& listener : listeners[tier]) {
            listener.Take(changes);
            if (below(2) == 0) listener.List(catalog, tier, 1 + below(5));
          }
          break;
        }
        case 0:
        case 1: {
          const bool may = oracle.MayPut(key, tier, now);
          const std::optional<SlotId> slot = catalog.BeginPut(Key(key), tier, now);
          ASSERT_EQ(slot.has_value(), may);
          if (!may) break;
          oracle.Put(key, tier, *slot, now);
          puts.emplace_back(tier, *slot);
          break;
        }
        case 2:
        case 3: {
          if (puts.empty()) break;
          const auto [at, slot] = take(&puts);
          const bool written = below(5) != 0;
          ASSERT_EQ(catalog.EndPut(at, slot, written ? PutEnd::kWritten : PutEnd::kFailed),
                    oracle.EndPut(at, slot, written));
          break;
        }
        case 4: {
          const std::optional<SlotId> slot = catalog.BeginRead(Key(key), tier);
          ASSERT_EQ(slot.has_value(), oracle.Find(key, tier, true) != nullptr);
          if (!slot) break;
          ASSERT_EQ(oracle.copies(tier).at(*slot).key, key);
          oracle.BeginRead(key, tier);
          reads.emplace_back(tier, *slot);
          break;
        }
        case 5: {
          if (reads.empty()) break;
          const auto [at, slot] = take(&reads);
          const bool good = below(6) != 0;
          catalog.EndRead(at, slot, good);
          oracle.EndRead(at, slot, good);
          break;
        }
        case 6: {
          std::vector<uint64_t> numbers;
          std::vector<BlockKey> keys;
          for (int i = 0; i < 1 + below(4); ++i) {
            numbers.push_back(1 + (key + static_cast<uint64_t>(i)) % 40);
            keys.push_back(Key(numbers.back()));
          }
          ASSERT_EQ(catalog.Probe(keys, now), oracle.Probe(numbers, now));
          break;
        }
        case 7: {
          if (below(2) == 0) {
            catalog.DropStalePuts(now);
            oracle.DropStale(now);
          } else {
            const Pin pin = static_cast<Pin>(below(3));
            catalog.SetPin(Key(key), pin);
            oracle.SetPin(key, pin);
          }
          break;
        }
      }
      for (Tier at : kTiers) {
        const auto& copies = oracle.copies(at);
        ASSERT_EQ(catalog.num_free(at), slots - static_cast<int32_t>(copies.size()));
        int32_t ready = 0;
        for (const auto& [slot, copy] : copies) {
          if (copy.ready && !copy.leaving) ++ready;
        }
        ASSERT_EQ(catalog.num_ready(at), ready);
        for (uint64_t k = 1; k <= 40; ++k) {
          ASSERT_EQ(catalog.Has(Key(k), at), oracle.Find(k, at, true) != nullptr) << k;
          ASSERT_EQ(catalog.IsPutting(Key(k), at), oracle.Find(k, at, false) != nullptr) << k;
        }
      }
    }
    for (Tier tier : kTiers) {
      CatalogChanges changes;
      ASSERT_FALSE(catalog.TakeChanges(tier, slots, &changes));
      std::set<BlockKey> there;
      for (uint64_t k = 1; k <= 40; ++k) {
        if (catalog.Has(Key(k), tier)) there.insert(Key(k));
      }
      listeners[tier].emplace_back();  // one that comes last
      for (Listener& listener : listeners[tier]) {
        listener.Take(changes);
        while (listener.listing()) listener.List(catalog, tier, 3);
        EXPECT_EQ(listener.known(), there);
      }
    }
  }
}

}  // namespace
}  // namespace halfmoon::kv
