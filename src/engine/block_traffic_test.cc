// SPDX-License-Identifier: Apache-2.0
// An engine over a store: restarts, cancels and disks that fail, over a model that checks the KV of
// every position in each step.
#include "engine/block_traffic.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <set>

#include "engine/engine_store_fixture.h"
#include "engine/local_pages.h"

namespace halfmoon::engine {
namespace {

using store::BlockEvent;
using store::BlockFetch;
using store::BlockTag;

TEST_F(EngineStoreTest, Restarted_PromptComesFromDiskWithTheSameOutput) {
  OpenStore(0, 64);
  Start(40, {.store = store_.get()});
  const Output first = Run(Sampled(Prompt(100), 8, 7));
  EXPECT_EQ(first.prompt->cached_tokens, 0);
  WaitFor([&] { return store_->Stats().disk.blocks == 6; });
  ASSERT_TRUE(store_->Flush(kLong));
  End();

  OpenStore(0, 64);
  EXPECT_EQ(store_->Stats().found.blocks, 6u);
  Start(40, {.store = store_.get()});
  const int64_t computed = counters_.tokens;
  const Output second = Run(Sampled(Prompt(100), 8, 7));
  ExpectSame(second, first, "after a restart");
  EXPECT_EQ(second.prompt->cached_tokens, 96);
  EXPECT_EQ(counters_.tokens - computed, 4 + 7);
  EXPECT_EQ(engine_->Stats().loaded_blocks, 6u);
  // Another salt names other blocks.
  Request salted = Sampled(Prompt(100), 8, 7);
  salted.cache_salt = "tenant";
  EXPECT_EQ(Run(std::move(salted)).prompt->cached_tokens, 0);
}

TEST_F(EngineStoreTest, PagesRunOut_PromptComesBackFromThePool) {
  OpenStore(64, 0);
  Start(10, {.store = store_.get()});
  const Output first = Run(Greedy(Prompt(100), 4));
  WaitFor([&] { return store_->Stats().dram.blocks == 6; });
  for (int i = 1; i < 4; ++i) (void)Run(Greedy(Prompt(100, i), 4));
  const uint64_t loaded = engine_->Stats().loaded_blocks;
  const Output again = Run(Greedy(Prompt(100), 4));
  ExpectSame(again, first, "from the pool");
  EXPECT_EQ(again.prompt->cached_tokens, 96);
  EXPECT_GT(engine_->Stats().loaded_blocks, loaded);
}

// A source that a test drives: what it is asked for ends when the test says so.
class HandSource final : public store::BlockSource {
 public:
  explicit HandSource(int32_t blocks, double fetch_us = 0.0)
      : blocks_(blocks), fetch_us_(fetch_us) {}
  /// That has these and no others.
  explicit HandSource(std::set<kv::BlockKey> keys) : blocks_(0), fetch_us_(0.0), keys_(keys) {}

  int32_t Probe(std::span<const kv::BlockKey> keys) override {
    std::lock_guard lock(mutex_);
    ++probes_;
    if (keys_.empty()) return std::min(blocks_, static_cast<int32_t>(keys.size()));
    const auto end = std::ranges::find_if(
        keys, [this](const kv::BlockKey& key) { return !keys_.contains(key); });
    return static_cast<int32_t>(end - keys.begin());
  }
  double FetchUs(std::span<const kv::BlockKey>) override { return fetch_us_; }
  void Fetch(std::span<const BlockFetch> blocks) override {
    std::lock_guard lock(mutex_);
    for (const BlockFetch& block : blocks) open_[block.tag] = block;
  }
  void Cancel(std::span<const BlockTag> tags) override {
    std::lock_guard lock(mutex_);
    cancelled_.insert(tags.begin(), tags.end());
  }
  void Poll(std::vector<BlockEvent>* events) override {
    std::lock_guard lock(mutex_);
    for (BlockEvent& event : ended_) events->push_back(std::move(event));
    ended_.clear();
  }
  void SetWake(std::function<void()> wake) override { wake_ = std::move(wake); }

  // Ends the n-th open fetch: fills its page with `kv`, or fails it.
  void EndOne(size_t n, const std::vector<std::byte>* kv) {
    {
      std::lock_guard lock(mutex_);
      const auto it = std::next(open_.begin(), static_cast<ptrdiff_t>(n));
      if (kv != nullptr) {
        std::ranges::copy(*kv, it->second.page.begin());
        ended_.push_back({.tag = it->first});
      } else {
        std::ranges::fill(it->second.page, std::byte{0xAB});
        ended_.push_back({.tag = it->first, .status = Error(ErrorCode::kIo, "gone")});
      }
      open_.erase(it);
    }
    wake_();
  }
  size_t num_open() {
    std::lock_guard lock(mutex_);
    return open_.size();
  }
  size_t num_cancelled() {
    std::lock_guard lock(mutex_);
    return cancelled_.size();
  }
  int probes() {
    std::lock_guard lock(mutex_);
    return probes_;
  }

 private:
  const int32_t blocks_;
  const double fetch_us_;
  const std::set<kv::BlockKey> keys_;
  std::mutex mutex_;
  int probes_ = 0;
  std::map<BlockTag, BlockFetch> open_;
  std::set<BlockTag> cancelled_;
  std::vector<BlockEvent> ended_;
  std::function<void()> wake_;
};

TEST_F(EngineStoreTest, SourceOfTheRequest_IsUsedWhileOthersDecode) {
  Start(40);
  const Output plain = Run(Greedy(Prompt(70, 3), 5));
  End();
  Start(40);
  const auto source = std::make_shared<HandSource>(3);
  Request request = Greedy(Prompt(70, 3), 5);
  request.source = source;
  const auto handle = Submit(std::move(request));
  WaitFor([&] { return source->num_open() == 3; });
  EXPECT_EQ(engine_->Stats().loading, 1);
  // Others are served meanwhile.
  EXPECT_EQ(Run(Greedy(Prompt(20, 50), 3)).ids.size(), 3u);
  const auto pages = PagesOf(Prompt(70, 3));
  source->EndOne(2, &pages[2]);
  source->EndOne(0, &pages[0]);
  source->EndOne(0, &pages[1]);
  const Output output = ReadAll(handle.get());
  ExpectSame(output, plain, "with blocks from a source");
  EXPECT_EQ(output.prompt->cached_tokens, 48);
}

TEST_F(EngineStoreTest, SourceAndStore_GoOnWhereTheOtherEnds) {
  const std::vector<int32_t> prompt = Prompt(70, 3);
  const auto pages = PagesOf(prompt);
  Start(40);
  const Output plain = Run(Greedy(prompt, 5));
  std::vector<kv::BlockKey> keys;
  kv::BlockKey previous = engine_->local_pages()->SeedKey("");
  for (size_t i = 0; i < 4; ++i) {
    previous = kv::NextKey(previous, std::span(prompt).subspan(i * kBlock, kBlock));
    keys.push_back(previous);
  }
  End();
  struct Case {
    size_t stored_tokens = 0;  // of the prompt, that were computed before
    std::set<kv::BlockKey> others;
    bool fails = false;
    int32_t cached_tokens = 0;
  };
  for (const Case& one :
       {Case{70, {keys[0]}, false, 64}, Case{70, {keys[0]}, true, 0},
        Case{33, {keys[2], keys[3]}, false, 64}, Case{33, {keys[2], keys[3]}, true, 32},
        Case{33, {keys[0], keys[2]}, false, 48}}) {
    disk_ = std::make_shared<store::MemoryDisk>();
    OpenStore(0, 64);
    Start(40, {.store = store_.get()});
    (void)Run(
        Greedy({prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(one.stored_tokens)}, 1));
    WaitFor([&] { return engine_->Stats().waiting_offers == 0; });
    ASSERT_TRUE(store_->Flush(kLong));
    End();
    OpenStore(0, 64);
    Start(40, {.store = store_.get()});
    const auto source = std::make_shared<HandSource>(one.others);
    Request request = Greedy(prompt, 5);
    request.source = source;
    const auto handle = Submit(std::move(request));
    WaitFor([&] { return source->num_open() == one.others.size(); });
    std::vector<size_t> wanted;
    for (size_t i = 0; i < 4; ++i) {
      if (one.others.contains(keys[i])) wanted.push_back(i);
    }
    for (size_t i : wanted) source->EndOne(0, one.fails ? nullptr : &pages[i]);
    const Output output = ReadAll(handle.get());
    ExpectSame(output, plain, "from both");
    EXPECT_EQ(output.prompt->cached_tokens, one.cached_tokens);
    End();
  }
}

TEST_F(EngineStoreTest, BlockThatFails_IsComputedAndTheRestCancelled) {
  Start(40);
  const Output plain = Run(Greedy(Prompt(70, 3), 5));
  End();
  Start(40);
  const auto source = std::make_shared<HandSource>(4);
  Request request = Greedy(Prompt(70, 3), 5);
  request.source = source;
  const auto handle = Submit(std::move(request));
  WaitFor([&] { return source->num_open() == 4; });
  const auto pages = PagesOf(Prompt(70, 3));
  source->EndOne(0, &pages[0]);
  source->EndOne(0, nullptr);
  WaitFor([&] { return source->num_cancelled() == 2; });
  // One of them comes all the same.
  source->EndOne(0, &pages[2]);
  source->EndOne(0, nullptr);
  const Output output = ReadAll(handle.get());
  ExpectSame(output, plain, "with a block that failed");
  EXPECT_EQ(output.prompt->cached_tokens, 16);
  EXPECT_EQ(engine_->Stats().failed_blocks, 3u);
}

TEST_F(EngineStoreTest, CancelledWhileLoading_AnsweredAtOnceAndPagesKeptUntilTheEnd) {
  Start(6);
  const auto source = std::make_shared<HandSource>(4);
  Request request = Greedy(Prompt(80, 3), 5);
  request.source = source;
  const auto handle = Submit(std::move(request));
  WaitFor([&] { return source->num_open() == 4; });
  handle->Cancel();
  EXPECT_EQ(ReadAll(handle.get()).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(engine_->Stats().pages_in_use, 4);
  EXPECT_EQ(source->num_cancelled(), 4u);
  // Needs the pages that are being written to, and waits for them.
  const auto other = Submit(Greedy(Prompt(80, 50), 2));
  while (source->num_open() > 0) source->EndOne(0, nullptr);
  EXPECT_EQ(ReadAll(other.get()).ids.size(), 2u);
}

TEST_F(EngineStoreTest, ShutdownWhileLoading_WaitsForTheLastWrite) {
  Start(20);
  const auto source = std::make_shared<HandSource>(4);
  Request request = Greedy(Prompt(80, 3), 5);
  request.source = source;
  const auto handle = Submit(std::move(request));
  WaitFor([&] { return source->num_open() == 4; });
  std::thread ending([&] { engine_->Shutdown(); });
  EXPECT_EQ(ReadAll(handle.get()).finish.reason, FinishReason::kError);
  while (source->num_open() > 0) source->EndOne(0, nullptr);
  ending.join();
}

TEST_F(EngineStoreTest, SlowerThanComputing_IsNotLoaded) {
  // A step takes 1 us a token by the engine's clock.
  ToyOptions toy;
  toy.before_step = [this](std::span<const model::SequenceChunk> chunks) {
    for (const model::SequenceChunk& chunk : chunks) {
      clock_.AdvanceUs(static_cast<TimeUs>(chunk.ids.size()));
    }
  };
  Start(40, {}, toy);
  for (int i = 0; i < 4; ++i) (void)Run(Greedy(Prompt(60 + 3 * i, 20 + i), 2));
  const auto slow = std::make_shared<HandSource>(3, 1e9);
  Request request = Greedy(Prompt(70, 3), 2);
  request.source = slow;
  EXPECT_EQ(Run(std::move(request)).prompt->cached_tokens, 0);
  EXPECT_GT(slow->probes(), 0);
  EXPECT_EQ(slow->num_open(), 0u);
}

// Prompts with common beginnings, few pages, clients that leave, restarts, and a disk that fails:
// what a client gets is what an engine without a store gives, and nothing is left behind.
TEST_F(EngineStoreTest, RandomTraffic_SameOutputsAsWithoutAStore) {
  std::map<uint64_t, Output> plain;
  const auto request_of = [](uint64_t n) {
    std::vector<int32_t> prompt = Prompt(17 + static_cast<int32_t>(n * 13 % 80));
    for (size_t i = prompt.size() / 2; i < prompt.size(); ++i) {
      prompt[i] = (prompt[i] + static_cast<int32_t>(n % 5)) % 97;
    }
    return Sampled(std::move(prompt), 1 + static_cast<int32_t>(n % 9), n);
  };
  constexpr uint64_t kKinds = 40;
  Start(40, {.prefix_cache = false});
  for (uint64_t n = 0; n < kKinds; ++n) plain[n] = Run(request_of(n));
  End();

  uint64_t loaded = 0;
  uint64_t failed = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<uint64_t>(random() % n); };
    std::atomic<uint32_t> calls{seed * 77};
    const bool fails = seed % 3 != 0;
    disk_->fail_transfer = [&calls, fails](const store::DiskTransfer&) -> Status {
      const uint32_t n = ++calls * 2654435761u;
      // Some take their time, so that cancels meet them.
      if (n % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      if (!fails || n >> 28 != 0) return {};
      return Error(ErrorCode::kIo, "no");
    };
    OpenStore(seed % 2 * 8, seed % 4 == 3 ? 12 : 48);
    Start(9 + static_cast<int>(below(20)), {.max_running = 6, .store = store_.get()});
    std::vector<std::pair<uint64_t, std::unique_ptr<RequestHandle>>> open;
    for (int i = 0; i < 120; ++i) {
      const uint64_t n = below(kKinds);
      open.emplace_back(n, Submit(request_of(n)));
      if (below(5) == 0) {
        if (below(2) == 0) std::this_thread::sleep_for(std::chrono::microseconds(below(400)));
        open.pop_back();  // the client leaves
      }
      while (open.size() > below(8)) {
        const Output output = ReadAll(open.front().second.get());
        ExpectSame(output, plain.at(open.front().first), "request");
        open.erase(open.begin());
      }
    }
    for (auto& [n, handle] : open) ExpectSame(ReadAll(handle.get()), plain.at(n), "request");
    loaded += engine_->Stats().loaded_blocks;
    failed += engine_->Stats().failed_blocks;
    End();
    EXPECT_EQ(counters_.wrong_slots.load(), 0);
  }
  EXPECT_GT(loaded, 500u);
  EXPECT_GT(failed, 10u);
}

}  // namespace
}  // namespace halfmoon::engine
