// SPDX-License-Identifier: Apache-2.0
#include "cluster/kv_exporter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <future>
#include <utility>

#include "cluster/idle_engine_for_test.h"

namespace halfmoon::cluster {
namespace {

constexpr size_t kLayerBytes = 16;
constexpr int kLayers = 2;
constexpr TimeUs kLeaseUs = 1'000'000;

class FakeClock final : public Clock {
 public:
  TimeUs NowUs() const override { return now_us; }
  TimeUs now_us = 0;
};

class FakeSegment final : public transfer::Segment {
 public:
  std::string descriptor() const override { return "segment"; }
};

/// Keeps what it is sent.
class FakeChannel final : public net::Channel {
 public:
  bool Send(uint16_t type, std::string payload) override {
    sent.emplace_back(static_cast<MessageType>(type), std::move(payload));
    return true;
  }
  void Close() override {}
  bool open() const override { return true; }
  const std::string& peer() const override { return peer_; }

  size_t Count(MessageType type) const {
    return static_cast<size_t>(
        std::ranges::count_if(sent, [type](const auto& one) { return one.first == type; }));
  }
  /// The last of its type.
  template <typename Message>
  Message Last(MessageType type) const {
    Message message;
    for (const auto& [sent_type, payload] : sent) {
      if (sent_type != type) continue;
      EXPECT_TRUE(Decode(payload, &message).ok());
    }
    return message;
  }
  std::vector<std::pair<MessageType, std::string>> sent;

 private:
  const std::string peer_ = "peer";
};

/// Exports that do what the test says.
class FakeEngine final : public IdleEngine {
 public:
  struct State {
    std::deque<Event> events;
    std::function<void()> notify;
    std::function<void(const KvPages&)> on_ready;
  };
  class FakeExport final : public ExportSequence {
   public:
    FakeExport(std::shared_ptr<State> state, int* alive) : state_(std::move(state)), alive_(alive) {
      ++*alive_;
    }
    FakeExport(const FakeExport&) = delete;
    FakeExport& operator=(const FakeExport&) = delete;
    ~FakeExport() override {
      --*alive_;
      state_->notify = nullptr;
    }
    std::optional<Event> TryNext() override {
      if (state_->events.empty()) return std::nullopt;
      Event event = std::move(state_->events.front());
      state_->events.pop_front();
      return event;
    }
    void SetNotify(std::function<void()> notify) override { state_->notify = std::move(notify); }

   private:
    const std::shared_ptr<State> state_;
    int* const alive_;
  };

  Result<std::unique_ptr<ExportSequence>> StartExport(
      const Export&, std::shared_ptr<store::BlockSource>,
      std::function<void(const KvPages&)> on_ready) override {
    started.push_back(std::make_shared<State>());
    started.back()->on_ready = std::move(on_ready);
    return std::unique_ptr<ExportSequence>(std::make_unique<FakeExport>(started.back(), &alive));
  }
  PageMemory pages() override {
    return {.bytes = memory,
            .page_bytes = kLayerBytes * kLayers,
            .layer_bytes = kLayerBytes,
            .num_layers = kLayers};
  }

  std::vector<std::byte> memory = std::vector<std::byte>(8 * kLayerBytes * kLayers);
  std::vector<std::shared_ptr<State>> started;
  int alive = 0;
};

class KvExporterTest : public testing::Test {
 protected:
  KvExporterTest()
      : exporter_(&engine_, &segment_, &timers_, &clock_,
                  {.lease_us = kLeaseUs, .max_exports = 8}) {}

  void Start(uint64_t number) {
    exporter_.Start({.ticket = {number, 1}, .prompt_ids = {1, 2, 3}, .num_blocks = 2}, nullptr,
                    owner_);
  }
  void Pull(uint64_t number) { exporter_.OnPull({number, 1}, puller_); }
  // What the engine's thread says is taken on the timers' thread; this waits until it has been.
  void Ready(size_t index) {
    const std::vector<int32_t> pages{3, 5};
    engine_.started.at(index)->on_ready({.first_block = 0, .pages = pages, .end_layer = kLayers});
    Settle();
  }
  void Finish(size_t index) {
    engine_.started.at(index)->events.push_back(FinishEvent{.reason = FinishReason::kLength});
    engine_.started.at(index)->notify();
    Settle();
  }
  void Settle() {
    std::promise<void> done;
    ASSERT_TRUE(timers_.Post([&] { done.set_value(); }));
    done.get_future().wait();
  }
  void Pass(TimeUs us) {
    clock_.now_us += us;
    exporter_.Tick();
    exporter_.Tick();
  }

  FakeEngine engine_;
  FakeSegment segment_;
  FakeClock clock_;
  net::TimerService timers_;
  const std::shared_ptr<FakeChannel> owner_ = std::make_shared<FakeChannel>();
  std::shared_ptr<FakeChannel> puller_ = std::make_shared<FakeChannel>();
  KvExporter exporter_;
};

TEST_F(KvExporterTest, Pulled_IsToldEverythingAndLetsGo) {
  Start(1);
  Ready(0);
  Pull(1);
  EXPECT_EQ(puller_->Last<KvSegment>(MessageType::kKvSegment).descriptor, "segment");
  const auto ready = puller_->Last<KvReady>(MessageType::kKvReady);
  EXPECT_EQ(ready.offsets, (std::vector<uint64_t>{3 * 2 * kLayerBytes, 5 * 2 * kLayerBytes}));
  Finish(0);
  EXPECT_EQ(puller_->Count(MessageType::kKvEnd), 1u);
  EXPECT_EQ(owner_->Last<ExportEnded>(MessageType::kExportEnded).num_blocks, 2);
  EXPECT_EQ(exporter_.num_exports(), 1);
  exporter_.OnPullDone({1, 1});
  EXPECT_EQ(exporter_.num_exports(), 0);
  EXPECT_EQ(engine_.alive, 0);
}

TEST_F(KvExporterTest, PullerGone_PagesGoAtOnceAndNotWithTheLease) {
  Start(1);
  Pull(1);
  Ready(0);
  Finish(0);
  EXPECT_EQ(engine_.alive, 1);
  exporter_.OnClosed(puller_.get());
  EXPECT_EQ(engine_.alive, 0);
}

TEST_F(KvExporterTest, PullerGoneWhileItComputes_GoesWhenItIsComputed) {
  Start(1);
  Pull(1);
  exporter_.OnClosed(puller_.get());
  Pass(1);
  EXPECT_EQ(engine_.alive, 1) << "what it computes stays in the cache";
  Finish(0);
  Pass(1);
  EXPECT_EQ(engine_.alive, 0);
}

TEST_F(KvExporterTest, PullerGoneBeforeTheExportComes_IsRefused) {
  for (const bool closed : {false, true}) {
    const uint64_t number = closed ? 2 : 1;
    Pull(number);
    EXPECT_EQ(exporter_.num_exports(), 0) << "it holds no page";
    if (closed) {
      exporter_.OnClosed(puller_.get());
    } else {
      exporter_.OnPullDone({number, 1});
    }
    Pass(kLeaseUs / 2);
    Start(number);
    EXPECT_TRUE(engine_.started.empty());
    EXPECT_EQ(owner_->Count(MessageType::kExportEnded), number);
    EXPECT_TRUE(owner_->Last<ExportEnded>(MessageType::kExportEnded).error.has_value());
  }
}

TEST_F(KvExporterTest, OwnerGone_TakesItsExportsAlong) {
  Start(1);
  Start(2);
  Pull(1);
  exporter_.OnClosed(owner_.get());
  EXPECT_EQ(engine_.alive, 0);
  // The engine may still tell of them.
  Ready(0);
  EXPECT_EQ(exporter_.num_exports(), 0);
}

TEST_F(KvExporterTest, Cancelled_IsToldOnceWithWhatWasFound) {
  Start(1);
  Pull(1);
  Ready(0);
  exporter_.Cancel({1, 1});
  EXPECT_EQ(engine_.alive, 0);
  EXPECT_EQ(owner_->Count(MessageType::kExportEnded), 1u);
  const auto ended = owner_->Last<ExportEnded>(MessageType::kExportEnded);
  EXPECT_EQ(ended.num_blocks, 2);
  EXPECT_EQ(ended.found.pages + ended.found.dram + ended.found.ssd, 2);
  EXPECT_EQ(puller_->Last<KvEnd>(MessageType::kKvEnd).error->code(), ErrorCode::kCancelled);
  Start(2);
  Finish(1);
  exporter_.Cancel({2, 1});
  exporter_.Cancel({2, 1});
  EXPECT_EQ(engine_.alive, 0);
  EXPECT_EQ(owner_->Count(MessageType::kExportEnded), 2u);
}

TEST_F(KvExporterTest, NobodyPulls_LeaseEndsIt) {
  Start(1);
  Finish(0);
  Pass(kLeaseUs - 1);
  EXPECT_EQ(engine_.alive, 1);
  Pass(1);
  EXPECT_EQ(engine_.alive, 0);
}

TEST_F(KvExporterTest, PullOfNothing_IsToldSoAfterTheLease) {
  Pull(7);
  Pass(kLeaseUs);
  const auto end = puller_->Last<KvEnd>(MessageType::kKvEnd);
  ASSERT_TRUE(end.error.has_value());
  EXPECT_EQ(end.error->code(), ErrorCode::kNotFound);
}

TEST_F(KvExporterTest, MoreThanThereMayBe_AreRefusedAndNotKept) {
  for (uint64_t number = 1; number <= 8; ++number) Start(number);
  Start(9);
  EXPECT_EQ(engine_.alive, 8);
  EXPECT_EQ(owner_->Last<ExportEnded>(MessageType::kExportEnded).error->code(),
            ErrorCode::kResourceExhausted);
  Pull(10);
  EXPECT_EQ(puller_->Last<KvEnd>(MessageType::kKvEnd).error->code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(exporter_.num_exports(), 8);
}

TEST_F(KvExporterTest, SameTwice_LeavesTheFirstAlone) {
  Start(1);
  Pull(1);
  Start(1);
  EXPECT_EQ(engine_.alive, 1);
  EXPECT_EQ(puller_->Count(MessageType::kKvEnd), 0u);
  Ready(0);
  EXPECT_EQ(puller_->Count(MessageType::kKvReady), 1u);
}

}  // namespace
}  // namespace halfmoon::cluster
