// SPDX-License-Identifier: Apache-2.0
// Blocks for others from pages, memory and disk, over a disk that fails or falls silent.
#include "engine/block_lookups.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <set>

#include "engine/engine_store_fixture.h"
#include "engine/local_pages.h"

namespace halfmoon::engine {
namespace {

/// What an export was told, with the bytes of the pages as they were then.
struct Told {
  std::mutex mutex;
  std::vector<int32_t> blocks;
  std::vector<int32_t> pages;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::optional<kv::Tier>> tiers;
};

class BlockLookupsTest : public EngineStoreTest {
 protected:
  std::vector<std::byte> BytesOf(int32_t page) {
    const PageMemoryView memory = engine_->local_pages()->page_memory();
    const auto from =
        memory.bytes.subspan(static_cast<size_t>(page) * memory.page_bytes, memory.page_bytes);
    return {from.begin(), from.end()};
  }
  std::shared_ptr<KvExport> Lookup(const std::shared_ptr<Told>& told, int32_t first_block,
                                   int32_t num_blocks) {
    return std::make_shared<KvExport>(
        KvExport::Options{.num_blocks = num_blocks,
                          .first_block = first_block,
                          .cached_only = true,
                          .on_ready = [this, told](const KvReady& ready) {
                            std::lock_guard lock(told->mutex);
                            EXPECT_EQ(ready.first_layer, 0);
                            EXPECT_EQ(ready.end_layer, 1);
                            for (size_t i = 0; i < ready.pages.size(); ++i) {
                              const int32_t page = ready.pages[i];
                              told->blocks.push_back(ready.first_block + static_cast<int32_t>(i));
                              told->pages.push_back(page);
                              told->bytes.push_back(BytesOf(page));
                              told->tiers.push_back(ready.tier);
                            }
                          }});
  }
  std::unique_ptr<RequestHandle> Begin(std::vector<int32_t> prompt,
                                       const std::shared_ptr<KvExport>& kv_export) {
    Request request = Greedy(std::move(prompt), 0);
    request.kv_export = kv_export;
    return Submit(std::move(request));
  }
  // Blocks [first, first + count), in order, each with the bytes that the model computes.
  static void ExpectBlocks(const Told& told, const std::vector<int32_t>& prompt, int32_t first,
                           size_t count) {
    const auto pages = PagesOf(prompt);
    ASSERT_EQ(told.blocks.size(), count);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(told.blocks[i], first + static_cast<int32_t>(i));
      EXPECT_TRUE(told.bytes[i] == pages.at(static_cast<size_t>(told.blocks[i]))) << i;
    }
  }
  // The prompt's blocks are in the store and in no page.
  void KeepInStoreOnly(const std::vector<int32_t>& prompt, int num_pages) {
    Start(num_pages, {.store = store_.get()});
    (void)Run(Greedy(prompt, 1));
    WaitFor([&] { return engine_->Stats().waiting_offers == 0; });
    ASSERT_TRUE(store_->Flush(kLong));
    gate_.Open();
    engine_->Shutdown();
    engine_.reset();
    Start(num_pages, {.store = store_.get()});
  }
};

TEST_F(BlockLookupsTest, BlocksOnDisk_AreReportedWithoutAStepAndStayUntilReleased) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  const int64_t computed = counters_.tokens;
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 0, 6);
  const Output output = ReadAll(Begin(Prompt(100), kv_export).get());
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_EQ(output.prompt->cached_tokens, 96);
  EXPECT_EQ(counters_.tokens, computed);
  ExpectBlocks(*told, Prompt(100), 0, 6);
  for (const auto& tier : told->tiers) EXPECT_EQ(tier, kv::Tier::kDisk);
  WaitFor([&] { return engine_->Stats().pages_in_use == 6; });
  // What is left is used again and again.
  for (int32_t i = 1; i < 6; ++i) (void)Run(Greedy(Prompt(100, 11 * i), 2));
  for (size_t i = 0; i < 6; ++i) EXPECT_TRUE(BytesOf(told->pages[i]) == told->bytes[i]) << i;
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
}

TEST_F(BlockLookupsTest, BlocksThatCame_AreFoundInPagesByTheNext) {
  OpenStore(64, 0);
  KeepInStoreOnly(Prompt(100), 20);
  const auto first = std::make_shared<Told>();
  const auto one = Lookup(first, 0, 6);
  ReadAll(Begin(Prompt(100), one).get());
  ExpectBlocks(*first, Prompt(100), 0, 6);
  EXPECT_EQ(first->tiers.at(0), kv::Tier::kDram);
  one->Release();
  const auto second = std::make_shared<Told>();
  const auto two = Lookup(second, 0, 6);
  ReadAll(Begin(Prompt(100), two).get());
  ExpectBlocks(*second, Prompt(100), 0, 6);
  EXPECT_FALSE(second->tiers.at(5).has_value());
  WaitFor([&] { return engine_->Stats().looked_up_page_blocks == 6; });
  two->Release();
  EXPECT_EQ(Run(Greedy(Prompt(100), 1)).prompt->cached_tokens, 96);
}

TEST_F(BlockLookupsTest, MiddleOfAPrompt_ComesWithoutItsBeginning) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 2, 3);
  ReadAll(Begin(Prompt(100), kv_export).get());
  ExpectBlocks(*told, Prompt(100), 2, 3);
  kv_export->Release();
  // Blocks without their parents are nobody's once they are released.
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
  EXPECT_EQ(engine_->Stats().pages_cached, 0);
}

TEST_F(BlockLookupsTest, OtherTokensOrSalt_FindNothing) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  const auto told = std::make_shared<Told>();
  const auto other = Lookup(told, 0, 6);
  EXPECT_EQ(ReadAll(Begin(Prompt(100, 1), other).get()).finish.reason, FinishReason::kLength);
  Request salted = Greedy(Prompt(100), 0);
  salted.cache_salt = "tenant";
  salted.kv_export = Lookup(told, 0, 6);
  EXPECT_EQ(Run(std::move(salted)).prompt->cached_tokens, 0);
  EXPECT_TRUE(told->blocks.empty());
}

TEST_F(BlockLookupsTest, MoreThanPagesAllow_EndsWhereTheyDo) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 8);
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 0, 6);
  ReadAll(Begin(Prompt(100), kv_export).get());
  ExpectBlocks(*told, Prompt(100), 0, 4);  // half of the pages
  const auto none = std::make_shared<Told>();
  const auto second = Lookup(none, 4, 2);
  ReadAll(Begin(Prompt(100), second).get());
  EXPECT_TRUE(none->blocks.empty());
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
  const auto third = Lookup(none, 4, 2);
  ReadAll(Begin(Prompt(100), third).get());
  ExpectBlocks(*none, Prompt(100), 4, 2);
}

TEST_F(BlockLookupsTest, BlockThatCannotBeRead_EndsIt) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  std::atomic<int> reads{0};
  disk_->fail_transfer = [&](const store::DiskTransfer& transfer) -> Status {
    if (transfer.kind != store::DiskTransfer::Kind::kRead || ++reads <= 3) return {};
    return Error(ErrorCode::kIo, "no");
  };
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 0, 6);
  const Output output = ReadAll(Begin(Prompt(100), kv_export).get());
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_LE(told->blocks.size(), 3u);
  ExpectBlocks(*told, Prompt(100), 0, told->blocks.size());
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
  End();
}

/// A disk that answers when the test says so; outlives what uses the disk.
class SilentDisk {
 public:
  explicit SilentDisk(store::MemoryDisk* disk) {
    disk->fail_transfer = [this](const store::DiskTransfer& transfer) -> Status {
      std::unique_lock lock(mutex_);
      if (transfer.kind == store::DiskTransfer::Kind::kRead) {
        asked_ = true;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !silent_; });
      }
      return {};
    };
  }
  /// Until a read has got to it: what is loading may still be on its way there.
  void AwaitRead() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(10), [this] { return asked_; }));
  }
  void Answer() {
    std::lock_guard lock(mutex_);
    silent_ = false;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool silent_ = true;
  bool asked_ = false;
};

TEST_F(BlockLookupsTest, SilentDisk_RequestsComputeAndLookupsEnd) {
  OpenStore(0, 64);
  Start(40);
  const Output plain = Run(Greedy(Prompt(100), 5));
  End();
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 40);
  SilentDisk silent(disk_.get());
  const auto request = Submit(Greedy(Prompt(100), 5));
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 0, 6);
  const auto lookup = Begin(Prompt(100), kv_export);
  WaitFor([&] { return engine_->Stats().loading == 2; });
  clock_.AdvanceUs(5'000'000);
  EXPECT_EQ(ReadAll(lookup.get()).finish.reason, FinishReason::kLength);
  EXPECT_TRUE(told->blocks.empty());
  const Output output = ReadAll(request.get());
  ExpectSame(output, plain, "computed, since the disk says nothing");
  EXPECT_EQ(output.prompt->cached_tokens, 0);
  kv_export->Release();
  // Nobody waits for it now, and nobody has the pages that it may still write to.
  EXPECT_EQ(Run(Greedy(Prompt(100, 3), 2)).ids.size(), 2u);
  // The other one had not got to the disk.
  WaitFor([&] { return engine_->Stats().loading == 1; });
  EXPECT_GE(engine_->Stats().pages_in_use, 6);
  silent.Answer();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
  // Asked again from now on.
  const auto again = Lookup(told, 0, 6);
  ReadAll(Begin(Prompt(100), again).get());
  ExpectBlocks(*told, Prompt(100), 0, 6);
  End();
}

TEST_F(BlockLookupsTest, CancelledWhileItLoads_PagesGoWhenTheDiskHasEnded) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  SilentDisk silent(disk_.get());
  const auto told = std::make_shared<Told>();
  const auto kv_export = Lookup(told, 0, 6);
  auto lookup = Begin(Prompt(100), kv_export);
  WaitFor([&] { return engine_->Stats().loading == 1; });
  silent.AwaitRead();
  kv_export->Release();
  EXPECT_EQ(ReadAll(lookup.get()).finish.reason, FinishReason::kCancelled);
  WaitFor([&] { return engine_->Stats().pages_in_use == 6; });
  silent.Answer();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
  EXPECT_TRUE(told->blocks.empty());
  End();
}

TEST_F(BlockLookupsTest, ShutdownWhileItLoads_WaitsForTheDisk) {
  OpenStore(0, 64);
  KeepInStoreOnly(Prompt(100), 14);
  SilentDisk silent(disk_.get());
  const auto told = std::make_shared<Told>();
  const auto lookup = Begin(Prompt(100), Lookup(told, 0, 6));
  WaitFor([&] { return engine_->Stats().loading == 1; });
  std::thread ending([&] { engine_->Shutdown(); });
  const Output output = ReadAll(lookup.get());
  EXPECT_EQ(output.finish.reason, FinishReason::kError);
  EXPECT_EQ(output.finish.error->code(), ErrorCode::kUnavailable);
  silent.Answer();
  ending.join();
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  EXPECT_TRUE(told->blocks.empty());
  End();
}

TEST_F(BlockLookupsTest, FirstBlockOfAComputedExport_IsRefused) {
  Start(8);
  for (const auto& options : {KvExport::Options{.num_blocks = 1, .first_block = 1},
                              KvExport::Options{.num_blocks = -1, .cached_only = true},
                              KvExport::Options{.first_block = -1, .cached_only = true}}) {
    Request request = Greedy(Prompt(40), 0);
    request.kv_export = std::make_shared<KvExport>(options);
    EXPECT_EQ(SubmitError(std::move(request)), ErrorCode::kInvalidArgument) << message_;
  }
}

// Look-ups of any part of prompts that others compute meanwhile, few pages, and a disk that fails:
// what is reported has the bytes that the model computes, and nothing is left behind.
TEST_F(BlockLookupsTest, RandomTraffic_ReportsRightBytesAndLetsGo) {
  std::vector<std::vector<int32_t>> prompts;
  std::map<size_t, std::vector<std::vector<std::byte>>> right;
  for (int32_t n = 0; n < 6; ++n) {
    prompts.push_back(Prompt(40 + 13 * n, n / 2));
    right[prompts.size() - 1] = PagesOf(prompts.back());
  }
  size_t reported = 0;
  size_t from_disk = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
    std::atomic<uint32_t> calls{seed * 77};
    disk_->fail_transfer = [&calls, seed](const store::DiskTransfer&) -> Status {
      const uint32_t n = ++calls * 2654435761u;
      if (n % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      if (seed % 3 == 0 || n >> 28 != 0) return {};
      return Error(ErrorCode::kIo, "no");
    };
    OpenStore(seed % 2 * 8, 48);
    Start(12 + static_cast<int>(below(16)), {.max_running = 6, .store = store_.get()});
    struct Open {
      size_t prompt = 0;
      int32_t first = 0;
      std::shared_ptr<Told> told = std::make_shared<Told>();
      std::shared_ptr<KvExport> kv_export;
      std::unique_ptr<RequestHandle> handle;
    };
    std::vector<Open> open;
    const auto close = [&](Open* one) {
      if (below(4) == 0) {
        one->kv_export->Release();
        one->handle.reset();
        return;
      }
      ReadAll(one->handle.get());
      std::lock_guard lock(one->told->mutex);
      for (size_t i = 0; i < one->told->blocks.size(); ++i) {
        ASSERT_EQ(one->told->blocks[i], one->first + static_cast<int32_t>(i));
        const auto block = static_cast<size_t>(one->told->blocks[i]);
        ASSERT_TRUE(one->told->bytes[i] == right[one->prompt].at(block));
        ASSERT_TRUE(BytesOf(one->told->pages[i]) == one->told->bytes[i]) << "changed while held";
        ++reported;
        if (one->told->tiers[i] == kv::Tier::kDisk) ++from_disk;
      }
      one->kv_export->Release();
    };
    for (int i = 0; i < 150; ++i) {
      const size_t prompt = below(prompts.size());
      if (below(2) == 0) (void)Run(Greedy(prompts[prompt], 1));
      Open& one = open.emplace_back();
      one.prompt = prompt;
      const auto blocks = static_cast<int32_t>(right[prompt].size());
      one.first = static_cast<int32_t>(below(2) == 0 ? 0 : below(static_cast<size_t>(blocks)));
      one.kv_export = Lookup(one.told, one.first, blocks - one.first);
      one.handle = Begin(prompts[prompt], one.kv_export);
      while (open.size() > below(3)) {
        const size_t which = below(open.size());
        close(&open[which]);
        open.erase(open.begin() + static_cast<ptrdiff_t>(which));
      }
    }
    for (Open& one : open) close(&one);
    open.clear();
    WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
    End();
  }
  EXPECT_GT(reported, 500u);
  EXPECT_GT(from_disk, 30u);
}

}  // namespace
}  // namespace halfmoon::engine
