// SPDX-License-Identifier: Apache-2.0
#include "cluster/block_report.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "cluster/idle_engine_for_test.h"
#include "kv/block_catalog.h"

namespace halfmoon::cluster {
namespace {

constexpr size_t kMostKeys = 32'768;

kv::BlockKey Key(uint64_t n) { return {{.high = n, .low = n * 31}}; }

/// A conductor: knows what it is told.
class FakeConductor final : public net::Channel {
 public:
  bool Send(uint16_t type, std::string payload) override {
    EXPECT_EQ(static_cast<MessageType>(type), MessageType::kBlocks);
    Blocks message;
    EXPECT_TRUE(Decode(payload, &message).ok());
    EXPECT_LE(message.added.size(), kMostKeys);
    EXPECT_LE(message.removed.size(), kMostKeys);
    EXPECT_GT(message.added.size() + message.removed.size(), 0u);
    std::set<kv::BlockKey>& known = known_[static_cast<size_t>(message.tier)];
    known.insert(message.added.begin(), message.added.end());
    for (const kv::BlockKey& key : message.removed) known.erase(key);
    ++messages;
    return true;
  }
  void Close() override {}
  bool open() const override { return true; }
  const std::string& peer() const override { return peer_; }
  const std::set<kv::BlockKey>& known(Tier tier) const { return known_[static_cast<size_t>(tier)]; }
  int messages = 0;

 private:
  const std::string peer_ = "conductor";
  std::array<std::set<kv::BlockKey>, kNumTiers> known_;
};

/// An engine with a store, as far as blocks go.
class CatalogEngine final : public IdleEngine {
 public:
  bool TakeBlockChanges(Tier tier, int32_t most, std::vector<kv::BlockKey>* added,
                        std::vector<kv::BlockKey>* removed) override {
    if (tier == Tier::kPages) {
      added->swap(pages_added);
      removed->swap(pages_removed);
      return false;
    }
    kv::CatalogChanges changes;
    const bool more = catalog.TakeChanges(Of(tier), most, &changes);
    *added = std::move(changes.added);
    *removed = std::move(changes.removed);
    return more;
  }
  bool ListToldBlocks(Tier tier, int32_t most, int32_t* next,
                      std::vector<kv::BlockKey>* keys) override {
    return catalog.ListTold(Of(tier), most, next, keys);
  }
  void Put(uint64_t n, kv::Tier tier) {
    const std::optional<kv::SlotId> slot = catalog.BeginPut(Key(n), tier, 0);
    if (slot.has_value()) catalog.EndPut(tier, *slot, kv::BlockCatalog::PutEnd::kWritten);
  }
  std::set<kv::BlockKey> There(kv::Tier tier, uint64_t end) const {
    std::set<kv::BlockKey> there;
    for (uint64_t n = 0; n < end; ++n) {
      if (catalog.Has(Key(n), tier)) there.insert(Key(n));
    }
    return there;
  }

  kv::BlockCatalog catalog{{.track_changes = true}};
  std::vector<kv::BlockKey> pages_added;
  std::vector<kv::BlockKey> pages_removed;

 private:
  static kv::Tier Of(Tier tier) { return tier == Tier::kDram ? kv::Tier::kDram : kv::Tier::kDisk; }
};

TEST(BlockReport, DiskFullOfBlocks_IsToldInPiecesAndToWhoComesLater) {
  constexpr int32_t kBlocks = 100'000;
  CatalogEngine engine;
  for (int32_t i = 0; i < kBlocks; ++i) {
    ASSERT_TRUE(
        engine.catalog.Restore(Key(static_cast<uint64_t>(i)), kv::Tier::kDisk, kv::SlotId{i}));
  }
  engine.catalog.AddSlots(kv::Tier::kDisk, kv::SlotId{0}, kBlocks);
  engine.pages_added = {Key(1), Key(2)};
  BlockReport report(&engine);
  const auto first = std::make_shared<FakeConductor>();
  report.Add(first);
  EXPECT_EQ(first->known(Tier::kPages).size(), 2u);
  EXPECT_TRUE(report.Tell());
  EXPECT_LE(first->known(Tier::kSsd).size(), kMostKeys);
  const auto second = std::make_shared<FakeConductor>();
  report.Add(second);
  EXPECT_EQ(second->known(Tier::kPages).size(), 2u);
  int pieces = 1;
  while (report.Tell()) ++pieces;
  EXPECT_LE(pieces, 6);
  for (const auto& conductor : {first, second}) {
    EXPECT_EQ(conductor->known(Tier::kSsd).size(), static_cast<size_t>(kBlocks));
  }
  EXPECT_EQ(report.num_in_pages(), 2u);
  // Nothing is said where nothing has changed.
  const int messages = first->messages + second->messages;
  EXPECT_FALSE(report.Tell());
  EXPECT_EQ(first->messages + second->messages, messages);
}

TEST(BlockReport, ConductorsThatComeAndGo_KnowInTheEndWhatIsThere) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<uint64_t>(random() % n); };
    CatalogEngine engine;
    engine.catalog.AddSlots(kv::Tier::kDram, kv::SlotId{0}, 20);
    engine.catalog.AddSlots(kv::Tier::kDisk, kv::SlotId{0}, 60);
    BlockReport report(&engine);
    std::vector<std::shared_ptr<FakeConductor>> conductors;
    std::set<kv::BlockKey> pages;
    for (int step = 0; step < 500; ++step) {
      const uint64_t n = below(100);
      switch (below(6)) {
        case 0:
        case 1:
          engine.Put(n, kv::Tier::kDram);
          break;
        case 2:
        case 3:
          engine.Put(n, kv::Tier::kDisk);
          break;
        case 4:
          // An engine tells each block once, as it is by then.
          std::erase(engine.pages_added, Key(n));
          std::erase(engine.pages_removed, Key(n));
          if (pages.erase(Key(n)) > 0) {
            engine.pages_removed.push_back(Key(n));
          } else {
            pages.insert(Key(n));
            engine.pages_added.push_back(Key(n));
          }
          break;
        case 5:
          (void)report.Tell();
          if (below(20) > 0) break;
          conductors.push_back(std::make_shared<FakeConductor>());
          report.Add(conductors.back());
          if (below(3) > 0) break;
          report.Remove(conductors.front().get());
          conductors.erase(conductors.begin());
          break;
      }
    }
    while (report.Tell()) {
    }
    for (const auto& conductor : conductors) {
      EXPECT_EQ(conductor->known(Tier::kPages), pages);
      EXPECT_EQ(conductor->known(Tier::kDram), engine.There(kv::Tier::kDram, 100));
      EXPECT_EQ(conductor->known(Tier::kSsd), engine.There(kv::Tier::kDisk, 100));
    }
  }
}

}  // namespace
}  // namespace halfmoon::cluster
