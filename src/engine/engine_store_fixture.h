// SPDX-License-Identifier: Apache-2.0
// An engine over a store, for tests.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "engine/engine_fixture.h"
#include "store/memory_folder_for_test.h"
#include "store/tiered_store.h"

namespace halfmoon::engine {

inline constexpr TimeUs kLong = 60'000'000;

class EngineStoreTest : public EngineTest {
 protected:
  // A store over disk_, as a process would open it.
  void OpenStore(uint64_t pool_slots, uint64_t disk_slots) {
    store::TieredStoreOptions options{.scope = {.model_fingerprint = "toy",
                                                .kv_format_version = kernels::kKvFormatVersion,
                                                .block_size = kBlock,
                                                .page_bytes = ToyModel::PageBytes(kBlock)},
                                      .pool_bytes = pool_slots * store::kDiskAlignment,
                                      .disk_bytes = disk_slots * 3 * store::kDiskAlignment};
    if (disk_slots > 0) options.folder = std::make_unique<store::MemoryFolder>(disk_);
    auto opened = store::TieredStore::Open(std::move(options), &real_clock_);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    store_ = std::move(*opened);
  }
  // Ends engine and store, as a process does, and checks that no page is left.
  void End() {
    gate_.Open();
    engine_->Shutdown();
    EXPECT_EQ(engine_->Stats().pages_in_use, 0);
    EXPECT_EQ(engine_->Stats().loading, 0);
    engine_.reset();
    store_.reset();
  }
  void TearDown() override {
    EngineTest::TearDown();
    store_.reset();
  }

  MonotonicClock real_clock_;
  std::shared_ptr<store::MemoryDisk> disk_ = std::make_shared<store::MemoryDisk>();
  std::unique_ptr<store::TieredStore> store_;  // outlives the engine
};

// The pages of a prompt's blocks, as the model fills them.
inline std::vector<std::vector<std::byte>> PagesOf(const std::vector<int32_t>& prompt) {
  ToyCounters counters;
  ToyModel model({.block_size = kBlock, .max_step_tokens = 512}, &counters);
  const size_t page_bytes = ToyModel::PageBytes(kBlock);
  const size_t blocks = prompt.size() / kBlock;
  std::vector<std::byte> memory((blocks + 1) * page_bytes);
  std::vector<int32_t> table;
  for (size_t i = 0; i <= blocks; ++i) table.push_back(static_cast<int32_t>(i));
  const model::SequenceChunk chunk{.ids = prompt,
                                   .start = 0,
                                   .kv = {.base = memory.data(), .page_table = table},
                                   .logits = model::LogitsMode::kNone};
  EXPECT_TRUE(model.Forward(std::span(&chunk, 1)).ok());
  std::vector<std::vector<std::byte>> pages;
  for (size_t i = 0; i < blocks; ++i) {
    const auto begin = memory.begin() + static_cast<ptrdiff_t>(i * page_bytes);
    pages.emplace_back(begin, begin + static_cast<ptrdiff_t>(page_bytes));
  }
  return pages;
}

}  // namespace halfmoon::engine
