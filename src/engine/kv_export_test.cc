// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_export.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "engine/engine_fixture.h"
#include "engine/local_pages.h"

namespace halfmoon::engine {
namespace {

/// Notes what is reported, with the bytes of the pages as they are then.
struct Collected {
  std::shared_ptr<KvExport> Make(int32_t num_blocks, bool cached_only = false) {
    return std::make_shared<KvExport>(
        KvExport::Options{.num_blocks = num_blocks,
                          .cached_only = cached_only,
                          .on_ready = [this](const KvReady& ready) { Take(ready); }});
  }
  void Take(const KvReady& ready) {
    std::lock_guard lock(mutex);
    EXPECT_EQ(ready.first_layer, 0);
    EXPECT_EQ(ready.end_layer, 1);
    EXPECT_EQ(ready.first_block, static_cast<int32_t>(pages.size()));
    for (int32_t page : ready.pages) {
      pages.push_back(page);
      bytes.push_back(BytesOf(page));
    }
  }
  std::string BytesOf(int32_t page) const {
    const PageMemoryView memory = engine->local_pages()->page_memory();
    const auto from =
        memory.bytes.subspan(static_cast<size_t>(page) * memory.page_bytes, memory.page_bytes);
    return {reinterpret_cast<const char*>(from.data()), from.size()};
  }

  Engine* engine = nullptr;
  std::mutex mutex;
  std::vector<int32_t> pages;
  std::vector<std::string> bytes;
};

class KvExportTest : public EngineTest {
 protected:
  Request Export(std::vector<int32_t> prompt, const std::shared_ptr<KvExport>& kv_export) {
    Request request = Greedy(std::move(prompt), 0);
    request.kv_export = kv_export;
    return request;
  }
};

TEST_F(KvExportTest, Prompt_ReportsItsBlocksInOrderAndEnds) {
  Start(16, {.shared_pages = true});
  EXPECT_GE(engine_->local_pages()->page_memory().file, 0);
  Collected got{.engine = engine_.get()};
  const auto kv_export = got.Make(4);
  const Output output = Run(Export(Prompt(5 * kBlock), kv_export));
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_TRUE(output.ids.empty());
  EXPECT_EQ(got.pages.size(), 4u);
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
}

TEST_F(KvExportTest, Pages_StayAsTheyAreUntilReleased) {
  Start(8);
  Collected got{.engine = engine_.get()};
  const auto kv_export = got.Make(4);
  Run(Export(Prompt(4 * kBlock + 1), kv_export));
  ASSERT_EQ(got.pages.size(), 4u);
  EXPECT_EQ(engine_->Stats().pages_in_use, 4);
  // What is left is used again and again.
  for (int32_t i = 1; i < 8; ++i) Run(Greedy(Prompt(3 * kBlock, 11 * i), 4));
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(got.BytesOf(got.pages[i]), got.bytes[i]) << i;
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
}

TEST_F(KvExportTest, CachedOnly_ReportsWhatIsThereAndComputesNothing) {
  Start(16);
  Run(Greedy(Prompt(3 * kBlock), 1));
  const int64_t computed = counters_.tokens.load();
  Collected got{.engine = engine_.get()};
  const auto kv_export = got.Make(5, /*cached_only=*/true);
  std::vector<int32_t> longer = Prompt(3 * kBlock);
  longer.resize(6 * kBlock, 5);
  const Output output = Run(Export(longer, kv_export));
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_EQ(got.pages.size(), 3u);
  EXPECT_EQ(counters_.tokens.load(), computed);
  kv_export->Release();
}

TEST_F(KvExportTest, WholePromptCached_EndsWithoutAStep) {
  Start(16);
  Run(Greedy(Prompt(3 * kBlock), 1));
  const int64_t computed = counters_.tokens.load();
  Collected got{.engine = engine_.get()};
  const auto kv_export = got.Make(3);
  std::vector<int32_t> ids = Prompt(3 * kBlock);
  ids.push_back(1);
  Run(Export(ids, kv_export));
  EXPECT_EQ(got.pages.size(), 3u);
  EXPECT_EQ(counters_.tokens.load(), computed);
  kv_export->Release();
}

TEST_F(KvExportTest, Cancelled_KeepsReportedPagesUntilReleased) {
  Start(16, {.max_running = 4, .step_tokens = kBlock}, {.max_step_tokens = kBlock});
  Collected got{.engine = engine_.get()};
  const auto kv_export = got.Make(6);
  gate_.Close();
  auto handle = Submit(Export(Prompt(6 * kBlock), kv_export));
  gate_.AwaitArrival();
  gate_.LetOneStep();
  gate_.AwaitArrival();
  handle->Cancel();
  gate_.Open();
  EXPECT_EQ(ReadAll(handle.get()).finish.reason, FinishReason::kCancelled);
  EXPECT_GE(got.pages.size(), 1u);
  EXPECT_LT(got.pages.size(), 6u);
  EXPECT_EQ(engine_->Stats().pages_in_use, static_cast<int64_t>(got.pages.size()));
  kv_export->Release();
  WaitFor([&] { return engine_->Stats().pages_in_use == 0; });
}

TEST_F(KvExportTest, Generating_IsRefused) {
  Start(8);
  Collected got{.engine = engine_.get()};
  Request request = Export(Prompt(20), got.Make(1));
  request.max_tokens = 1;
  EXPECT_EQ(SubmitError(std::move(request)), ErrorCode::kInvalidArgument);
}

TEST_F(KvExportTest, BlockChanges_AddUpToWhatIsCached) {
  Start(8, {.track_blocks = true});
  std::map<kv::BlockKey, bool> there;
  for (int32_t i = 0; i < 12; ++i) {
    Run(Greedy(Prompt(2 * kBlock + 3, 5 * i), 3));
    const BlockChanges changes = engine_->local_pages()->TakeBlockChanges();
    for (const kv::BlockKey& key : changes.added) there[key] = true;
    for (const kv::BlockKey& key : changes.removed) there.erase(key);
  }
  engine_->Shutdown();
  const BlockChanges last = engine_->local_pages()->TakeBlockChanges();
  for (const kv::BlockKey& key : last.added) there[key] = true;
  for (const kv::BlockKey& key : last.removed) there.erase(key);
  EXPECT_EQ(static_cast<int64_t>(there.size()), engine_->Stats().pages_cached);
}

TEST_F(KvExportTest, Resumed_GoesOnAsIfNeverCutOff) {
  Start(16);
  constexpr int32_t kMaxTokens = 20;
  {
    const Output whole = Run(Sampled(Prompt(30), kMaxTokens, 7));
    for (size_t cut : {size_t{1}, size_t{9}, size_t{19}}) {
      Request rest = Sampled(Prompt(30), kMaxTokens, 7);
      rest.prompt_ids.insert(rest.prompt_ids.end(), whole.ids.begin(),
                             whole.ids.begin() + static_cast<ptrdiff_t>(cut));
      rest.resumed_tokens = static_cast<int32_t>(cut);
      const Output output = Run(std::move(rest));
      EXPECT_EQ(output.ids,
                std::vector(whole.ids.begin() + static_cast<ptrdiff_t>(cut), whole.ids.end()));
      EXPECT_EQ(output.finish.reason, whole.finish.reason);
    }
  }
}

TEST_F(KvExportTest, ResumedBeyondTheOutput_IsRefused) {
  Start(8);
  for (int32_t resumed : {-1, 5, 20}) {
    Request request = Greedy(Prompt(20), 5);
    request.resumed_tokens = resumed;
    EXPECT_EQ(SubmitError(std::move(request)), ErrorCode::kInvalidArgument) << resumed;
  }
}

}  // namespace
}  // namespace halfmoon::engine
