// SPDX-License-Identifier: Apache-2.0
#include "cluster/pull_state.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>

namespace halfmoon::cluster {
namespace {

constexpr size_t kLayerBytes = 16;
constexpr int kLayers = 3;
constexpr size_t kPageBytes = kLayerBytes * kLayers;

/// Copies from `memory` when the test says so.
class FakeTransfers final : public transfer::TransferEngine {
 public:
  Result<std::unique_ptr<transfer::Segment>> Register(std::span<std::byte>,
                                                      const transfer::SegmentOptions&) override {
    return Error(ErrorCode::kUnsupported, "not in this test");
  }
  transfer::TransferId Read(std::string_view descriptor,
                            std::span<const transfer::ReadRange> ranges,
                            const transfer::ReadOptions&,
                            std::function<void(Status)> done) override {
    EXPECT_EQ(descriptor, "segment");
    reads.push_back({std::vector(ranges.begin(), ranges.end()), std::move(done)});
    return transfer::TransferId{reads.size()};
  }
  void Cancel(transfer::TransferId id) override { cancelled.push_back(id); }
  transfer::TransferStats Stats() const override { return {}; }
  std::string Describe() const override { return "fake"; }

  void End(size_t read, const Status& status) {
    if (status.ok()) {
      for (const transfer::ReadRange& range : reads[read].ranges) {
        std::memcpy(range.target.data(), memory.data() + range.offset, range.target.size());
      }
    }
    reads[read].done(status);
  }
  void EndAll() {
    for (; ended < reads.size(); ++ended) End(ended, {});
  }

  struct Started {
    std::vector<transfer::ReadRange> ranges;
    std::function<void(Status)> done;
  };
  std::vector<Started> reads;
  std::vector<transfer::TransferId> cancelled;
  std::vector<std::byte> memory;
  size_t ended = 0;
};

class PullStateTest : public ::testing::Test {
 protected:
  PullStateTest() {
    for (int i = 0; i < 4; ++i) {
      keys_.push_back(kv::BlockKey{{1, static_cast<uint64_t>(i)}});
      pages_.emplace_back(kPageBytes);
    }
    transfers_.memory.resize(4 * kPageBytes);
    for (size_t i = 0; i < transfers_.memory.size(); ++i) {
      transfers_.memory[i] = static_cast<std::byte>(i * 7 + 1);
    }
    pull_ = std::make_shared<PullState>(
        SourceSpec{.address = "other:1", .num_blocks = 4, .patience_us = 1000}, keys_,
        PageShape{.layer_bytes = kLayerBytes, .num_layers = kLayers}, &transfers_, &clock_,
        [this](size_t bytes, TimeUs us) { arrivals_.emplace_back(bytes, us); });
    pull_->SetWake([this] { ++wakes_; });
  }
  void Segment() {
    pull_->OnSegment({.descriptor = "segment", .layer_bytes = kLayerBytes, .num_layers = kLayers});
  }
  void Ready(int32_t first_block, int32_t count, int first_layer, int end_layer) {
    KvReady ready{.first_block = first_block, .first_layer = first_layer, .end_layer = end_layer};
    for (int32_t i = 0; i < count; ++i) {
      ready.offsets.push_back(static_cast<uint64_t>(first_block + i) * kPageBytes +
                              static_cast<uint64_t>(first_layer) * kLayerBytes);
      ready.checksums.push_back(0);
    }
    pull_->OnReady(ready);
  }
  void Fetch(std::vector<size_t> blocks) {
    std::vector<store::BlockFetch> fetches;
    for (size_t block : blocks) {
      fetches.push_back(
          {.tag = store::BlockTag{block}, .key = keys_[block], .page = pages_[block]});
    }
    pull_->Fetch(fetches);
  }
  std::map<uint64_t, Status> Poll() {
    std::vector<store::BlockEvent> events;
    pull_->Poll(&events);
    for (store::BlockEvent& event : events) {
      const bool first =
          ended_.emplace(static_cast<uint64_t>(event.tag), std::move(event.status)).second;
      EXPECT_TRUE(first) << "two events for one block";
    }
    return ended_;
  }
  bool HasBytes(size_t block) const {
    return std::memcmp(pages_[block].data(), transfers_.memory.data() + block * kPageBytes,
                       kPageBytes) == 0;
  }

  FakeTransfers transfers_;
  ManualClock clock_;
  std::vector<kv::BlockKey> keys_;
  std::vector<std::vector<std::byte>> pages_;
  std::shared_ptr<PullState> pull_;
  std::map<uint64_t, Status> ended_;
  int wakes_ = 0;
  std::vector<std::pair<size_t, TimeUs>> arrivals_;
};

TEST_F(PullStateTest, LayersOneByOne_ArriveAsTheyAreReady) {
  EXPECT_EQ(pull_->Probe(keys_), 4);
  Fetch({0, 1, 2, 3});
  Segment();
  for (int layer = 0; layer < kLayers; ++layer) {
    Ready(0, 4, layer, layer + 1);
    EXPECT_TRUE(Poll().empty());
    transfers_.EndAll();
  }
  EXPECT_EQ(Poll().size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(ended_.at(i).ok());
    EXPECT_TRUE(HasBytes(i));
  }
  EXPECT_TRUE(pull_->done());
  EXPECT_GT(wakes_, 0);
}

TEST_F(PullStateTest, ReadyBeforeFetched_IsReadOnceThereIsAPage) {
  Segment();
  Ready(0, 2, 0, kLayers);
  EXPECT_TRUE(transfers_.reads.empty());
  Fetch({1});  // block 0 was here already
  transfers_.EndAll();
  EXPECT_TRUE(Poll().at(1).ok());
  EXPECT_TRUE(HasBytes(1));
  EXPECT_FALSE(HasBytes(0));
}

TEST_F(PullStateTest, Arrivals_AreMeasured) {
  Segment();
  Fetch({0, 1});
  Ready(0, 2, 0, 2);
  clock_.AdvanceUs(50);
  transfers_.End(0, {});
  Ready(0, 2, 2, 3);
  transfers_.End(1, Error(ErrorCode::kCorrupt, "checksum"));
  ASSERT_EQ(arrivals_.size(), 1u);
  EXPECT_EQ(arrivals_[0], (std::pair<size_t, TimeUs>(2 * 2 * kLayerBytes, 50)));
}

TEST_F(PullStateTest, SourceGone_FailsWhatHasNotCome) {
  Fetch({0, 1, 2, 3});
  Segment();
  Ready(0, 2, 0, kLayers);
  transfers_.EndAll();
  pull_->Fail(Error(ErrorCode::kUnavailable, "gone"));
  EXPECT_EQ(Poll().size(), 4u);
  EXPECT_TRUE(ended_.at(0).ok());
  EXPECT_TRUE(ended_.at(1).ok());
  EXPECT_EQ(ended_.at(2).error().code(), ErrorCode::kUnavailable);
  EXPECT_EQ(ended_.at(3).error().code(), ErrorCode::kUnavailable);
  EXPECT_TRUE(pull_->done());
}

TEST_F(PullStateTest, FailureDuringARead_KeepsItsPagesUntilTheReadEnds) {
  Fetch({0, 1});
  Segment();
  Ready(0, 2, 0, 1);
  pull_->Fail(Error(ErrorCode::kUnavailable, "gone"));
  EXPECT_TRUE(Poll().empty()) << "a page was given back while it is written";
  EXPECT_FALSE(pull_->done());
  EXPECT_EQ(transfers_.cancelled.size(), 1u);
  transfers_.End(0, Error(ErrorCode::kCancelled, "cancelled"));
  EXPECT_EQ(Poll().size(), 2u);
  EXPECT_EQ(ended_.at(0).error().code(), ErrorCode::kUnavailable);
  EXPECT_TRUE(pull_->done());
}

TEST_F(PullStateTest, ReadFails_EndsThePull) {
  Fetch({0, 1, 2});
  Segment();
  Ready(0, 1, 0, kLayers);
  transfers_.End(0, Error(ErrorCode::kCorrupt, "checksum"));
  EXPECT_EQ(Poll().size(), 3u);
  for (const auto& [tag, status] : ended_) EXPECT_EQ(status.error().code(), ErrorCode::kCorrupt);
}

TEST_F(PullStateTest, EndBeforeEverythingIsReady_NotFound) {
  Fetch({0, 1, 2, 3});
  Segment();
  Ready(0, 3, 0, kLayers);
  pull_->OnEnd({});
  transfers_.EndAll();
  EXPECT_EQ(Poll().size(), 4u);
  EXPECT_EQ(ended_.at(3).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(pull_->Probe(keys_), 0);
}

TEST_F(PullStateTest, EndBeforeFetch_WhatIsCompleteStillComes) {
  Segment();
  Ready(0, 3, 0, kLayers);
  Ready(3, 1, 0, 1);
  pull_->OnEnd({.error = Error(ErrorCode::kIo, "disk")});
  EXPECT_FALSE(pull_->done()) << "the other node's pages are still needed";
  EXPECT_EQ(pull_->Probe(keys_), 3);
  Fetch({0, 1, 2, 3});
  transfers_.EndAll();
  EXPECT_EQ(Poll().size(), 4u);
  for (uint64_t block = 0; block < 3; ++block) EXPECT_TRUE(ended_.at(block).ok()) << block;
  EXPECT_EQ(ended_.at(3).error().code(), ErrorCode::kIo);
  EXPECT_TRUE(pull_->done());
  // Its page has been given back: nothing may be read into it.
  const size_t reads = transfers_.reads.size();
  Ready(3, 1, 1, kLayers);
  EXPECT_EQ(transfers_.reads.size(), reads);
  EXPECT_EQ(pull_->error()->code(), ErrorCode::kCorrupt);
}

TEST_F(PullStateTest, EndWhileTheCutBlockIsBeingRead_KeepsItsPageUntilTheReadEnds) {
  Fetch({0, 1});
  Segment();
  Ready(0, 1, 0, kLayers);
  Ready(1, 1, 0, 1);
  pull_->OnEnd({});
  EXPECT_TRUE(Poll().empty());
  EXPECT_FALSE(pull_->done());
  transfers_.EndAll();
  EXPECT_EQ(Poll().size(), 2u);
  EXPECT_TRUE(ended_.at(0).ok());
  EXPECT_EQ(ended_.at(1).error().code(), ErrorCode::kNotFound);
  EXPECT_TRUE(pull_->done());
}

// As the engine does when one of them has failed.
TEST_F(PullStateTest, LastOnesCancelled_ThoseBeforeStillCome) {
  Fetch({0, 1, 2, 3});
  Segment();
  Ready(0, 2, 0, kLayers);
  const std::array<store::BlockTag, 2> last{store::BlockTag{2}, store::BlockTag{3}};
  pull_->Cancel(last);
  EXPECT_EQ(Poll().size(), 2u);
  EXPECT_EQ(ended_.at(2).error().code(), ErrorCode::kCancelled);
  // The other node does not know, and says what it was asked for.
  const size_t reads = transfers_.reads.size();
  Ready(2, 2, 0, kLayers);
  pull_->OnEnd({});
  EXPECT_EQ(transfers_.reads.size(), reads);
  EXPECT_FALSE(pull_->done());
  transfers_.EndAll();
  EXPECT_EQ(Poll().size(), 4u);
  EXPECT_TRUE(ended_.at(0).ok());
  EXPECT_TRUE(ended_.at(1).ok());
  EXPECT_TRUE(pull_->done());
}

TEST_F(PullStateTest, AllCancelled_TransfersAreToo) {
  Fetch({0, 1});
  Segment();
  Ready(0, 1, 0, kLayers);
  const std::array<store::BlockTag, 2> all{store::BlockTag{0}, store::BlockTag{1}};
  pull_->Cancel(all);
  EXPECT_EQ(transfers_.cancelled.size(), 1u);
  transfers_.End(0, Error(ErrorCode::kCancelled, "cancelled"));
  EXPECT_EQ(Poll().size(), 2u);
  EXPECT_TRUE(pull_->done());
}

TEST_F(PullStateTest, EndAfterEverythingIsReady_LetsReadsEnd) {
  Fetch({0, 1, 2, 3});
  Segment();
  Ready(0, 4, 0, kLayers);
  pull_->OnEnd({});
  transfers_.EndAll();
  EXPECT_EQ(Poll().size(), 4u);
  for (const auto& [tag, status] : ended_) EXPECT_TRUE(status.ok());
}

TEST_F(PullStateTest, Stalled_FailsAfterItsPatience) {
  Fetch({0});
  Segment();
  clock_.AdvanceUs(999);
  pull_->FailIfStalled(clock_.NowUs());
  EXPECT_TRUE(Poll().empty());
  clock_.AdvanceUs(1);
  pull_->FailIfStalled(clock_.NowUs());
  EXPECT_EQ(Poll().at(0).error().code(), ErrorCode::kDeadlineExceeded);
}

TEST_F(PullStateTest, NobodyWaits_IsNotStalled) {
  clock_.AdvanceUs(1'000'000);
  pull_->FailIfStalled(clock_.NowUs());
  EXPECT_EQ(pull_->Probe(keys_), 4);
}

TEST_F(PullStateTest, ContradictoryMessages_EndThePull) {
  const auto fails = [this](const std::function<void()>& message) {
    pull_ = std::make_shared<PullState>(
        SourceSpec{.address = "other:1", .num_blocks = 4}, keys_,
        PageShape{.layer_bytes = kLayerBytes, .num_layers = kLayers}, &transfers_, &clock_);
    Segment();
    Fetch({0});
    message();
    ended_.clear();
    EXPECT_EQ(Poll().size(), 1u);
    EXPECT_EQ(ended_.at(0).error().code(), ErrorCode::kCorrupt);
  };
  fails([this] { Ready(0, 1, 1, 2); });  // a layer left out
  fails([this] { Ready(3, 2, 0, 1); });  // beyond the last block
  fails([this] { Ready(-1, 1, 0, 1); });
  fails([this] { Ready(0, 1, 0, kLayers + 1); });
  fails([this] { Ready(0, 1, 0, 0); });
  fails([this] { pull_->OnReady({.end_layer = 1, .offsets = {0}, .checksums = {}}); });
  fails([this] { pull_->OnSegment({.descriptor = "x", .layer_bytes = 8, .num_layers = kLayers}); });
}

TEST_F(PullStateTest, UnknownOrRepeatedBlock_NotFound) {
  Fetch({0});
  const kv::BlockKey unknown{{9, 9}};
  const store::BlockFetch fetches[] = {
      {.tag = store::BlockTag{7}, .key = unknown, .page = pages_[1]},
      {.tag = store::BlockTag{8}, .key = keys_[0], .page = pages_[2]}};
  pull_->Fetch(fetches);
  EXPECT_EQ(Poll().size(), 2u);
  EXPECT_EQ(ended_.at(7).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(ended_.at(8).error().code(), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace halfmoon::cluster
