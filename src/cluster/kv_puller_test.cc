// SPDX-License-Identifier: Apache-2.0
// Pulls over real channels and transfers, from nodes whose engines have what a test says.
#include "cluster/kv_puller.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "cluster/idle_engine_for_test.h"
#include "cluster/node_server.h"

namespace halfmoon::cluster {
namespace {

constexpr int32_t kBlockTokens = 4;
constexpr size_t kPageBytes = 64;
constexpr int32_t kPages = 16;

kv::BlockKey Key(uint64_t block) { return {{.high = 1, .low = block}}; }

/// Block i lies in page i, whose bytes are all i + `first`; some blocks are not there.
class HavingEngine final : public IdleEngine {
 public:
  explicit HavingEngine(int first) : memory_(kPages * kPageBytes) {
    for (size_t i = 0; i < memory_.size(); ++i) {
      memory_[i] = static_cast<std::byte>(static_cast<size_t>(first) + i / kPageBytes);
    }
  }

  class Ended final : public ExportSequence {
   public:
    std::optional<Event> TryNext() override {
      if (std::exchange(told_, true)) return std::nullopt;
      return FinishEvent{.reason = FinishReason::kLength};
    }
    void SetNotify(std::function<void()> notify) override {
      if (notify) notify();
    }

   private:
    bool told_ = false;
  };

  Result<std::unique_ptr<ExportSequence>> StartExport(
      const Export& request, std::shared_ptr<store::BlockSource>,
      std::function<void(const KvPages&)> on_ready) override {
    for (int32_t i = 0; i < request.num_blocks && request.first_block + i < end_block; ++i) {
      const int32_t page = request.first_block + i;
      on_ready({.first_block = page, .pages = std::span(&page, 1), .end_layer = 1});
    }
    return std::unique_ptr<ExportSequence>(std::make_unique<Ended>());
  }
  PageMemory pages() override {
    return {.bytes = memory_, .page_bytes = kPageBytes, .layer_bytes = kPageBytes, .num_layers = 1};
  }

  int32_t end_block = kPages;

 private:
  std::vector<std::byte> memory_;
};

/// A node and the conductor that gives it exports.
class Source {
 public:
  Source(int first, net::ChannelService* channels, const Clock* clock) : engine_(first) {
    auto transfers = transfer::StartTransfer({.token = "secret"});
    EXPECT_TRUE(transfers.ok());
    transfers_ = std::move(*transfers);
    NodeServerOptions options;
    options.channel.token = "secret";
    options.description.block_size = kBlockTokens;
    auto server = NodeServer::Start(std::move(options), &engine_, transfers_.get(), clock);
    EXPECT_TRUE(server.ok());
    server_ = std::move(*server);
    const auto where = net::ParseHostPort(server_->address());
    conductor_ = channels->Dial(where->host, where->port, {});
    (void)conductor_->Send(static_cast<uint16_t>(MessageType::kHello), Encode(Hello{}));
  }
  /// What a puller is told of it.
  SourceSpec Order(uint64_t number, int32_t first_block, int32_t num_blocks) {
    Export order{.ticket = {number, 1},
                 .first_block = first_block,
                 .num_blocks = num_blocks,
                 .cached_only = true};
    order.prompt_ids.resize(static_cast<size_t>((first_block + num_blocks) * kBlockTokens));
    (void)conductor_->Send(static_cast<uint16_t>(MessageType::kExport), Encode(order));
    return {.address = server_->address(),
            .ticket = order.ticket,
            .first_block = first_block,
            .num_blocks = num_blocks};
  }
  HavingEngine& engine() { return engine_; }
  void Kill() { server_.reset(); }

 private:
  HavingEngine engine_;
  std::unique_ptr<transfer::TransferEngine> transfers_;
  std::unique_ptr<NodeServer> server_;
  std::shared_ptr<net::Channel> conductor_;
};

class KvPullerTest : public testing::Test {
 protected:
  KvPullerTest() {
    auto channels = net::ChannelService::Create({.token = "secret"}, nullptr);
    EXPECT_TRUE(channels.ok());
    channels_ = std::move(*channels);
    auto transfers = transfer::StartTransfer({.token = "secret"});
    EXPECT_TRUE(transfers.ok());
    transfers_ = std::move(*transfers);
    puller_ = std::make_unique<KvPuller>(channels_.get(), transfers_.get(), &clock_,
                                         PageShape{.layer_bytes = kPageBytes, .num_layers = 1});
    for (uint64_t i = 0; i < kPages; ++i) keys_.push_back(Key(i));
    pages_.resize(kPages, std::vector<std::byte>(kPageBytes));
  }

  void Pull(const std::vector<SourceSpec>& specs) {
    source_ = puller_->Pull(specs, keys_);
    source_->SetWake([this] {
      std::lock_guard lock(mutex_);
      woken_ = true;
      changed_.notify_all();
    });
  }
  void Fetch(size_t first, size_t count) {
    std::vector<store::BlockFetch> fetches;
    for (size_t i = first; i < first + count; ++i) {
      fetches.push_back({.tag = store::BlockTag{i}, .key = keys_[i], .page = pages_[i]});
    }
    source_->Fetch(fetches);
  }
  /// How the fetch of each block ended.
  std::map<size_t, Status> Await(size_t count) {
    std::map<size_t, Status> ended;
    while (ended.size() < count) {
      std::vector<store::BlockEvent> events;
      source_->Poll(&events);
      for (store::BlockEvent& event : events) {
        EXPECT_TRUE(ended.emplace(static_cast<size_t>(event.tag), std::move(event.status)).second);
      }
      std::unique_lock lock(mutex_);
      if (ended.size() < count &&
          !changed_.wait_for(lock, std::chrono::seconds(30), [this] { return woken_; })) {
        ADD_FAILURE() << "nothing comes after " << ended.size() << " blocks";
        break;
      }
      woken_ = false;
    }
    return ended;
  }
  void ExpectBytes(size_t block, int first) {
    EXPECT_EQ(pages_[block],
              std::vector<std::byte>(kPageBytes,
                                     static_cast<std::byte>(static_cast<size_t>(first) + block)))
        << block;
  }

  MonotonicClock clock_;
  std::unique_ptr<net::ChannelService> channels_;
  std::unique_ptr<transfer::TransferEngine> transfers_;
  std::unique_ptr<KvPuller> puller_;
  std::vector<kv::BlockKey> keys_;
  std::vector<std::vector<std::byte>> pages_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;                          // GUARDED_BY(mutex_)
  std::shared_ptr<store::BlockSource> source_;  // goes first
};

TEST_F(KvPullerTest, AddressThatIsNone_FailsThePullAndNothingElse) {
  for (const char* address : {"nowhere", "", ":7", "host:0"}) {
    Pull({{.address = address, .num_blocks = 1}});
    std::promise<void> begun;
    ASSERT_TRUE(channels_->timers().Post([&] { begun.set_value(); }));
    begun.get_future().wait();
    Fetch(0, 1);
    EXPECT_EQ(Await(1).at(0).error().code(), ErrorCode::kInvalidArgument) << address;
  }
}

TEST_F(KvPullerTest, PiecesOfThreeNodes_MakeOnePrefix) {
  Source a(100, channels_.get(), &clock_);
  Source b(150, channels_.get(), &clock_);
  Source c(200, channels_.get(), &clock_);
  // The blocks before the second are in pages here.
  Pull({a.Order(1, 2, 3), b.Order(2, 5, 1), c.Order(3, 6, 4)});
  EXPECT_EQ(source_->Probe(std::span(keys_).subspan(2)), 8);
  EXPECT_EQ(source_->Probe(std::span(keys_).subspan(5)), 5);
  EXPECT_EQ(source_->Probe(keys_), 0);
  Fetch(2, 8);
  for (const auto& [block, status] : Await(8)) EXPECT_TRUE(status.ok()) << block;
  for (size_t block = 2; block < 10; ++block)
    ExpectBytes(block, block < 5 ? 100 : block < 6 ? 150 : 200);
}

TEST_F(KvPullerTest, PieceThatFails_LeavesThoseBeforeItAlone) {
  Source a(100, channels_.get(), &clock_);
  Source b(150, channels_.get(), &clock_);
  Source c(200, channels_.get(), &clock_);
  b.engine().end_block = 4;  // of its three, one is there
  Pull({a.Order(1, 0, 3), b.Order(2, 3, 3), c.Order(3, 6, 2)});
  // The engine cancels what follows the first that fails, and waits for what is before it.
  Fetch(3, 5);
  source_->Cancel(std::vector{store::BlockTag{6}, store::BlockTag{7}});
  auto ended = Await(5);
  EXPECT_TRUE(ended.at(3).ok());
  EXPECT_EQ(ended.at(4).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(ended.at(5).error().code(), ErrorCode::kNotFound);
  Fetch(0, 3);
  for (const auto& [block, status] : Await(3)) EXPECT_TRUE(status.ok()) << block;
  for (size_t block = 0; block < 3; ++block) ExpectBytes(block, 100);
  ExpectBytes(3, 150);
}

TEST_F(KvPullerTest, NodeThatDies_FailsItsPieceOnly) {
  Source a(100, channels_.get(), &clock_);
  Source b(150, channels_.get(), &clock_);
  const std::vector<SourceSpec> specs{a.Order(1, 0, 3), b.Order(2, 3, 3)};
  b.Kill();
  Pull(specs);
  Fetch(0, 6);
  auto ended = Await(6);
  for (size_t block = 0; block < 3; ++block) EXPECT_TRUE(ended.at(block).ok());
  for (size_t block = 3; block < 6; ++block) {
    EXPECT_EQ(ended.at(block).error().code(), ErrorCode::kUnavailable);
  }
}

TEST_F(KvPullerTest, SameNodeTwice_IsTwoPieces) {
  Source a(100, channels_.get(), &clock_);
  Pull({a.Order(1, 0, 2), a.Order(2, 2, 2)});
  Fetch(0, 4);
  for (const auto& [block, status] : Await(4)) EXPECT_TRUE(status.ok()) << block;
  for (size_t block = 0; block < 4; ++block) ExpectBytes(block, 100);
}

}  // namespace
}  // namespace halfmoon::cluster
