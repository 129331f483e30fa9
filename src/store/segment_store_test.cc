// SPDX-License-Identifier: Apache-2.0
#include "store/segment_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/temporary_folder_for_test.h"
#include "store/memory_folder_for_test.h"

namespace halfmoon::store {
namespace {

constexpr uint64_t kPageBytes = 5000;

PageScope Scope(const std::string& model = "model") {
  return {.model_fingerprint = model,
          .kv_format_version = 2,
          .block_size = 16,
          .page_bytes = kPageBytes};
}
kv::BlockKey Key(uint64_t n) { return {{.high = ~n, .low = n * 31}}; }
std::vector<std::byte> Page(uint64_t n) {
  std::vector<std::byte> page(kPageBytes);
  for (size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(n * 7 + i / 3);
  return page;
}

// A store over a catalog, driven step by step.
class Tier {
 public:
  static constexpr uint64_t kBudget = uint64_t{20} * 12'288;

  explicit Tier(std::shared_ptr<MemoryDisk> disk, uint64_t budget = kBudget,
                const PageScope& scope = Scope())
      : folder_(std::make_unique<MemoryFolder>(std::move(disk))) {
    Start(budget, scope);
  }
  explicit Tier(std::unique_ptr<SegmentFolder> folder, uint64_t budget = kBudget,
                const PageScope& scope = Scope())
      : folder_(std::move(folder)) {
    Start(budget, scope);
  }

  // Whether it was written.
  bool Write(uint64_t n) { return WriteTogether({n}); }
  // Whether all were: each is started before the first has ended.
  bool WriteTogether(const std::vector<uint64_t>& blocks) {
    if (catalog_.IsNearlyFull(kv::Tier::kDisk) && store_->CanGrow() && store_->Grow().ok()) {
      std::vector<SlotDone> none;
      while (store_->growing()) store_->Poll(true, &none);
      const auto slots = store_->TakeNewSlots();
      if (slots.ok() && slots->has_value()) {
        catalog_.AddSlots(kv::Tier::kDisk, (*slots)->first, (*slots)->count);
      }
    }
    for (const uint64_t n : blocks) {
      const auto slot = catalog_.BeginPut(Key(n), kv::Tier::kDisk, now_++);
      if (!slot.has_value()) return false;
      store_->Write(n, *slot, Key(n), Page(n));
    }
    std::vector<SlotDone> done;
    while (done.size() < blocks.size()) store_->Poll(true, &done);
    bool all_written = true;
    for (const SlotDone& one : done) {
      const auto end =
          one.status.ok() ? kv::BlockCatalog::PutEnd::kWritten : kv::BlockCatalog::PutEnd::kBroken;
      all_written = catalog_.EndPut(kv::Tier::kDisk, one.slot, end) && all_written;
    }
    return all_written;
  }
  void WriteRecords() {
    std::vector<SlotDone> none;
    (void)store_->Flush(&none);
  }
  // kNotFound where the catalog does not know it; fails the test where bytes are wrong.
  Status Read(uint64_t n) {
    const auto slot = catalog_.BeginRead(Key(n), kv::Tier::kDisk);
    if (!slot.has_value()) return Error(ErrorCode::kNotFound, "not kept");
    std::vector<std::byte> page(kPageBytes, std::byte{0xEE});
    store_->Read(n, *slot, Key(n), page);
    std::vector<SlotDone> done;
    while (done.empty()) store_->Poll(true, &done);
    catalog_.EndRead(kv::Tier::kDisk, *slot, done[0].status.ok());
    EXPECT_TRUE(!done[0].status.ok() || page == Page(n)) << "wrong bytes of block " << n;
    return done[0].status;
  }
  SegmentStore& store() { return *store_; }
  kv::BlockCatalog& catalog() { return catalog_; }

 private:
  void Start(uint64_t budget, const PageScope& scope) {
    auto opened = SegmentStore::Open(folder_.get(), {.scope = scope, .budget_bytes = budget});
    HM_CHECK(opened.ok());
    store_ = std::move(opened).value();
    store_->Restore(&catalog_);
  }

  std::unique_ptr<SegmentFolder> folder_;
  kv::BlockCatalog catalog_{{.watermark = 1.0, .pass = 0.0, .lease_us = 0}};
  std::unique_ptr<SegmentStore> store_;
  TimeUs now_ = 1;
};

TEST(SegmentStore, Reopened_HasEveryBlock) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 12; ++n) EXPECT_TRUE(tier.Write(n));
    for (uint64_t n = 0; n < 12; ++n) EXPECT_TRUE(tier.Read(n).ok()) << n;
    tier.WriteRecords();
  }
  Tier tier(disk);
  EXPECT_EQ(tier.store().found().blocks, 12u);
  for (uint64_t n = 0; n < 12; ++n) EXPECT_TRUE(tier.Read(n).ok()) << n;
  EXPECT_EQ(tier.Read(12).error().code(), ErrorCode::kNotFound);
}

// Writes end in any order, here the last one first.
TEST(SegmentStore, BlocksWrittenTogether_KeepTheOrderInWhichTheyWerePut) {
  const auto disk = std::make_shared<MemoryDisk>();
  Tier tier(disk);
  ASSERT_TRUE(tier.WriteTogether({1, 2}));
  tier.WriteRecords();
  ASSERT_EQ(disk->files.size(), 1u);
  const std::span<const std::byte> file = disk->files.begin()->second;
  const Result<SegmentHeader> header = ParseSegmentHeader(file.first(kDiskAlignment));
  ASSERT_TRUE(header.ok());
  std::map<uint64_t, kv::BlockKey> by_stamp;
  for (uint32_t slot = 0; slot < header->num_slots; ++slot) {
    const auto bytes = file.subspan(kDiskAlignment + slot * kRecordBytes, kRecordBytes);
    const std::optional<SlotRecord> record = ParseSlotRecord(*header, slot, bytes);
    if (record.has_value()) by_stamp[record->stamp] = record->key;
  }
  std::vector<kv::BlockKey> order;
  for (const auto& [stamp, key] : by_stamp) order.push_back(key);
  EXPECT_EQ(order, (std::vector{Key(1), Key(2)}));
}

// A page of whole sectors, where the device writes into the page itself: its place decides.
TEST(SegmentStore, WholeSectors_AlignedOrNot_SameBytes) {
  const TemporaryFolder folder;
  auto opened = OpenSegmentFolder({.path = folder.path(), .depth = 4});
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  const std::unique_ptr<SegmentFolder> files = std::move(opened).value();
  PageScope scope = Scope();
  scope.page_bytes = 2 * kDiskAlignment;
  auto store = SegmentStore::Open(files.get(), {.scope = scope, .budget_bytes = 1 << 20});
  ASSERT_TRUE(store.ok()) << store.error().message();
  ASSERT_TRUE((*store)->Grow().ok());
  std::vector<SlotDone> done;
  while ((*store)->growing()) (*store)->Poll(true, &done);
  const kv::SlotId slot = (*store)->TakeNewSlots().value()->first;
  tensor::AlignedBuffer memory(3 * kDiskAlignment);
  for (const size_t offset : {size_t{0}, size_t{64}}) {
    const std::span<std::byte> page(memory.data() + offset, scope.page_bytes);
    for (size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(i * i + offset);
    const std::vector<std::byte> written(page.begin(), page.end());
    const auto end = [&] {
      done.clear();
      while (done.empty()) (*store)->Poll(true, &done);
      return done[0].status.ok();
    };
    (*store)->Write(1, slot, Key(offset), page);
    ASSERT_TRUE(end());
    std::ranges::fill(page, std::byte{0xEE});
    (*store)->Read(2, slot, Key(offset), page);
    ASSERT_TRUE(end()) << done[0].status.error().message();
    EXPECT_TRUE(std::ranges::equal(page, written)) << offset;
  }
}

TEST(SegmentStore, Budget_IsNeverExceeded) {
  const auto disk = std::make_shared<MemoryDisk>();
  Tier tier(disk);
  for (uint64_t n = 0; n < 100; ++n) {
    EXPECT_TRUE(tier.Write(n));
    EXPECT_LE(disk->size_bytes(), Tier::kBudget);
  }
  EXPECT_GE(tier.catalog().num_slots(kv::Tier::kDisk), 20);
  EXPECT_TRUE(tier.Read(99).ok());
  EXPECT_EQ(tier.Read(0).error().code(), ErrorCode::kNotFound);
}

TEST(SegmentStore, SmallerBudget_KeepsTheYoungest) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 16; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  Tier tier(disk, Tier::kBudget / 3);
  EXPECT_LE(disk->size_bytes(), Tier::kBudget / 3);
  EXPECT_GT(tier.store().found().removed_files, 0u);
  EXPECT_TRUE(tier.Read(15).ok());
  EXPECT_EQ(tier.Read(0).error().code(), ErrorCode::kNotFound);
  for (uint64_t n = 20; n < 40; ++n) {
    EXPECT_TRUE(tier.Write(n));
    EXPECT_LE(disk->size_bytes(), Tier::kBudget / 3);
  }
}

TEST(SegmentStore, BudgetBelowOnePage_InvalidArgument) {
  MemoryFolder folder(std::make_shared<MemoryDisk>());
  const auto opened = SegmentStore::Open(&folder, {.scope = Scope(), .budget_bytes = 10'000});
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(opened.error().message().find("10000 bytes"), std::string::npos);
}

TEST(SegmentStore, OtherModels_AreNeverUsedAndGoWhenRoomIsNeeded) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 16; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  const auto differs = [](int what) {
    PageScope scope = Scope();
    if (what == 0) scope.model_fingerprint = "another";
    if (what == 1) scope.kv_format_version = 3;
    if (what == 2) scope.block_size = 32;
    if (what == 3) scope.page_bytes = 5056;
    return scope;
  };
  for (int what = 0; what < 4; ++what) {
    MemoryFolder folder(disk);
    auto store =
        SegmentStore::Open(&folder, {.scope = differs(what), .budget_bytes = Tier::kBudget});
    ASSERT_TRUE(store.ok());
    kv::BlockCatalog catalog({});
    (*store)->Restore(&catalog);
    EXPECT_EQ((*store)->found().blocks, 0u);
    EXPECT_GT((*store)->found().other_bytes, 0u);
  }
  Tier other(disk, Tier::kBudget, differs(0));
  for (uint64_t n = 0; n < 60; ++n) {
    EXPECT_TRUE(other.Write(n));
    EXPECT_LE(disk->size_bytes(), Tier::kBudget);
  }
  other.WriteRecords();
  EXPECT_EQ(Tier(disk).store().found().blocks, 0u);
}

// Every change that reached the disk is cut at every point: whatever is found then is right, and
// what was recorded before is there.
TEST(SegmentStore, CrashAtAnyPoint_GivesRightBlocksOrNone) {
  const auto disk = std::make_shared<MemoryDisk>();
  std::vector<std::pair<size_t, std::set<uint64_t>>> durable = {{0, {}}};  // from a change on
  {
    // Half of the blocks replace others.
    Tier tier(disk, uint64_t{6} * 12'288);
    for (uint64_t n = 0; n < 10; ++n) {
      EXPECT_TRUE(tier.Write(n));
      // The slot of an evicted block is written from here on.
      durable.emplace_back(0, std::set<uint64_t>{});
      tier.WriteRecords();
      std::set<uint64_t> kept;
      for (uint64_t k = 0; k <= n; ++k) {
        if (tier.catalog().Has(Key(k), kv::Tier::kDisk)) kept.insert(k);
      }
      durable.back() = {disk->changes.size(), kept};
    }
  }
  const std::vector<FolderChange> changes = disk->changes;
  int reopened = 0;
  MemoryFiles before;
  for (size_t cut = 0; cut <= changes.size(); ++cut) {
    // Of the next change, this much.
    std::vector<size_t> parts = {0};
    if (cut < changes.size() && changes[cut].kind == FolderChange::Kind::kWrite) {
      for (size_t at = kRecordBytes; at < changes[cut].bytes.size(); at += kRecordBytes * 3 + 1) {
        parts.push_back(at);
      }
    }
    for (const size_t part : parts) {
      const auto crashed = std::make_shared<MemoryDisk>();
      crashed->files = before;
      if (part > 0) changes[cut].Apply(&crashed->files, part);
      Tier tier(crashed, uint64_t{6} * 12'288);
      ++reopened;
      std::set<uint64_t> right;
      for (uint64_t n = 0; n < 10; ++n) {
        const Status status = tier.Read(n);
        if (status.ok()) right.insert(n);
        if (!status.ok() && status.error().code() != ErrorCode::kNotFound) {
          EXPECT_EQ(status.error().code(), ErrorCode::kCorrupt);
          // Dropped, so it is written again.
          EXPECT_TRUE(tier.Write(n));
          EXPECT_TRUE(tier.Read(n).ok());
        }
      }
      // All blocks of the last state that was whole, but for one that was being replaced.
      const auto state = std::find_if(durable.rbegin(), durable.rend(),
                                      [&](const auto& of) { return of.first <= cut; });
      std::vector<uint64_t> lost;
      std::ranges::set_difference(state->second, right, std::back_inserter(lost));
      EXPECT_LE(lost.size(), 1u) << "after change " << cut;
      if (part == 0 && cut == state->first) {
        EXPECT_TRUE(lost.empty()) << "after change " << cut;
      }
    }
    if (cut < changes.size()) changes[cut].Apply(&before, SIZE_MAX);
  }
  EXPECT_GT(reopened, 500);
}

TEST(SegmentStore, DamagedAnywhere_GivesRightBlocksOrNone) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 4; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  for (const auto& [name, bytes] : disk->files) {
    for (size_t at = 0; at < bytes.size(); at += 97) {
      const auto damaged = std::make_shared<MemoryDisk>();
      damaged->files = disk->files;
      damaged->files[name][at] ^= std::byte{0x10};
      Tier tier(damaged);
      for (uint64_t n = 0; n < 4; ++n) {
        const Status status = tier.Read(n);
        EXPECT_TRUE(status.ok() || status.error().code() == ErrorCode::kCorrupt ||
                    status.error().code() == ErrorCode::kNotFound);
      }
    }
  }
}

TEST(SegmentStore, SwappedPages_AreNotUsed) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 2; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  std::vector<std::byte>& file = disk->files.begin()->second;
  const auto header = ParseSegmentHeader(file);
  ASSERT_TRUE(header.ok());
  std::swap_ranges(file.begin() + static_cast<ptrdiff_t>(header->slot_offset(0)),
                   file.begin() + static_cast<ptrdiff_t>(header->slot_offset(1)),
                   file.begin() + static_cast<ptrdiff_t>(header->slot_offset(1)));
  Tier tier(disk);
  EXPECT_EQ(tier.Read(0).error().code(), ErrorCode::kCorrupt);
  EXPECT_EQ(tier.Read(1).error().code(), ErrorCode::kCorrupt);
  EXPECT_EQ(tier.Read(0).error().code(), ErrorCode::kNotFound);
}

TEST(SegmentStore, TruncatedUnfinishedAndForeignFiles_AreTreatedAsWhatTheyAre) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 4; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  const std::string name = disk->files.begin()->first;
  disk->files[name].resize(disk->files[name].size() - kDiskAlignment);
  disk->files["x.kvseg.tmp"].resize(100);
  disk->files["notes.txt"].resize(100, std::byte{'a'});
  disk->files["theirs.kvseg"].resize(8192, std::byte{'a'});
  disk->files["short.kvseg"].resize(10);
  Tier tier(disk);
  EXPECT_FALSE(disk->files.contains(name));
  EXPECT_FALSE(disk->files.contains("x.kvseg.tmp"));
  EXPECT_FALSE(disk->files.contains("short.kvseg"));
  EXPECT_TRUE(disk->files.contains("notes.txt"));
  EXPECT_TRUE(disk->files.contains("theirs.kvseg"));
  for (uint64_t n = 0; n < 4; ++n) {
    const Status status = tier.Read(n);
    EXPECT_TRUE(status.ok() || status.error().code() == ErrorCode::kNotFound);
    if (!status.ok()) {
      EXPECT_TRUE(tier.Write(n));
    }
  }
}

TEST(SegmentStore, WriteThatFails_LosesThatBlockOnly) {
  const auto disk = std::make_shared<MemoryDisk>();
  Tier tier(disk);
  EXPECT_TRUE(tier.Write(1));
  disk->fail_transfer = [](const DiskTransfer& transfer) -> Status {
    if (transfer.kind == DiskTransfer::Kind::kRead) return {};
    return Error(ErrorCode::kIo, "no");
  };
  EXPECT_FALSE(tier.Write(2));
  disk->fail_transfer = nullptr;
  EXPECT_TRUE(tier.Write(3));
  tier.WriteRecords();
  EXPECT_TRUE(tier.Read(1).ok());
  EXPECT_EQ(tier.Read(2).error().code(), ErrorCode::kNotFound);
  Tier again(disk);
  EXPECT_TRUE(again.Read(1).ok());
  EXPECT_EQ(again.Read(2).error().code(), ErrorCode::kNotFound);
  EXPECT_TRUE(again.Read(3).ok());
}

// A segment that could not be read at the start is still there, and so is its name.
TEST(SegmentStore, HeaderThatCannotBeRead_ItsFileIsNotReplaced) {
  const auto disk = std::make_shared<MemoryDisk>();
  {
    Tier tier(disk);
    for (uint64_t n = 0; n < 2; ++n) EXPECT_TRUE(tier.Write(n));
    tier.WriteRecords();
  }
  const MemoryFiles before = disk->files;
  int reads = 0;
  disk->fail_transfer = [&](const DiskTransfer& transfer) -> Status {
    if (transfer.kind == DiskTransfer::Kind::kWrite || ++reads > 1) return {};
    return Error(ErrorCode::kIo, "not now");
  };
  {
    Tier tier(disk);
    for (uint64_t n = 5; n < 7; ++n) EXPECT_TRUE(tier.Write(n));
    for (uint64_t n = 5; n < 7; ++n) EXPECT_TRUE(tier.Read(n).ok());
    tier.WriteRecords();
  }
  for (const auto& [name, bytes] : before) EXPECT_EQ(disk->files.at(name), bytes);
  Tier tier(disk);
  for (const uint64_t n : {0, 1, 5, 6}) EXPECT_TRUE(tier.Read(n).ok()) << n;
}

TEST(SegmentStore, RealFolder_KeepsBlocksAndTheLock) {
  const TemporaryFolder folder;
  for (const bool direct : {true, false}) {
    SegmentFolderOptions options{.path = folder.path() / (direct ? "direct" : "cached"),
                                 .depth = 4,
                                 .allow_io_uring = direct,
                                 .allow_direct = direct};
    for (int round = 0; round < 2; ++round) {
      auto opened = OpenSegmentFolder(options);
      ASSERT_TRUE(opened.ok()) << opened.error().message();
      const auto second = OpenSegmentFolder(options);
      ASSERT_FALSE(second.ok());
      EXPECT_EQ(second.error().code(), ErrorCode::kUnavailable);
      EXPECT_NE(second.error().message().find("another halfmoon"), std::string::npos);
      Tier tier(std::move(opened).value());
      EXPECT_EQ(tier.store().found().blocks, round == 0 ? 0u : 12u);
      for (uint64_t n = 0; n < 12 && round == 0; ++n) EXPECT_TRUE(tier.Write(n));
      for (uint64_t n = 0; n < 12; ++n) EXPECT_TRUE(tier.Read(n).ok()) << n;
      tier.WriteRecords();
    }
  }
}

}  // namespace
}  // namespace halfmoon::store
