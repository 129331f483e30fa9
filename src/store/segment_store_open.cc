// SPDX-License-Identifier: Apache-2.0
// What the SSD tier does when it starts: which segments it takes over, and which have to go.
#include <algorithm>
#include <limits>
#include <memory>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "store/segment_store.h"

namespace halfmoon::store {
namespace {

constexpr const char* kSuffix = ".kvseg";
constexpr const char* kUnfinishedSuffix = ".kvseg.tmp";
// A segment is what a shrinking budget removes at once and a file that stays open: small against
// the budget, and not more than some hundred of them.
constexpr uint64_t kLeastSegmentBytes = uint64_t{64} << 20;
constexpr uint64_t kMostSegments = 256;
constexpr uint64_t kFewestSegments = 8;
constexpr size_t kNameDigits = 16;

// Whether Grow names its files so; one whose header is beyond recognition is then ours all the
// same.
bool HasNameOfOurs(const std::string& name) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return name.size() > kNameDigits && name[kNameDigits] == '-' &&
         std::all_of(name.begin(), name.begin() + kNameDigits, is_hex);
}

}  // namespace

Result<std::unique_ptr<SegmentStore>> SegmentStore::Open(SegmentFolder* folder,
                                                         const SegmentStoreOptions& options) {
  HM_CHECK(options.scope.page_bytes > 0);
  const SegmentHeader least = MakeSegmentHeader(options.scope, 1, 0);
  if (least.file_bytes() > options.budget_bytes) {
    return Error(ErrorCode::kInvalidArgument, "a budget of " +
                                                  std::to_string(options.budget_bytes) +
                                                  " bytes on disk holds no KV block; one takes " +
                                                  std::to_string(least.file_bytes()));
  }
  std::unique_ptr<SegmentStore> store(new SegmentStore(folder, options));
  HM_TRY(store->Load());
  return store;
}

SegmentStore::SegmentStore(SegmentFolder* folder, const SegmentStoreOptions& options)
    : folder_(folder), options_(options) {
  buffer_bytes_ = AlignToDisk(options_.scope.page_bytes);
  const size_t depth = folder->depth();
  buffers_ = tensor::AlignedBuffer(depth * buffer_bytes_ + kDiskAlignment);
  operations_.resize(depth);
  for (size_t i = depth; i > 0; --i) free_buffers_.push_back(i - 1);
}

SegmentStore::~SegmentStore() {
  while (!idle()) (void)folder_->Next();
}

// Of the next segment: a whole one, or what is left of the budget; 0 where that holds none.
uint32_t SegmentStore::NextSlots() const {
  const uint64_t whole =
      std::min(std::max(kLeastSegmentBytes, options_.budget_bytes / kMostSegments),
               options_.budget_bytes / kFewestSegments);
  const SegmentHeader one = MakeSegmentHeader(options_.scope, 1, 0);
  const uint64_t bytes =
      std::min(std::max(whole, one.file_bytes()),
               options_.budget_bytes - std::min(options_.budget_bytes, size_bytes_));
  auto count = static_cast<uint32_t>(
      std::min<uint64_t>(bytes / (one.slot_bytes() + kRecordBytes), kMaxSegmentSlots));
  // The header and the rounding of the table take at most a few slots.
  while (count > 0 && MakeSegmentHeader(options_.scope, count, 0).file_bytes() > bytes) --count;
  return count;
}

Status SegmentStore::Load() {
  HM_ASSIGN(const std::vector<SegmentFolder::File> files, folder_->List());
  for (const SegmentFolder::File& file : files) {
    names_.insert(file.name);
    if (file.name.ends_with(kUnfinishedSuffix)) {
      HM_TRY(folder_->Remove(file.name));
      ++found_.removed_files;
    } else if (file.name.ends_with(kSuffix)) {
      HM_TRY(LoadFile(file));
    }
  }
  HM_TRY(FitBudget());
  NumberSlots();
  return {};
}

Status SegmentStore::ReadNow(FileId file, uint64_t offset, std::span<std::byte> into) {
  for (size_t at = 0; at < into.size(); at += buffer_bytes_) {
    const size_t size = std::min(buffer_bytes_, into.size() - at);
    StartTransfer(0, DiskTransfer::Kind::kRead, file, offset + at, Buffer(0).first(size));
    HM_TRY(folder_->Next().status);
    std::ranges::copy(Buffer(0).first(size), into.begin() + static_cast<ptrdiff_t>(at));
  }
  return {};
}

// An error is one that ends the start; a file that cannot be used is none.
Status SegmentStore::LoadFile(const SegmentFolder::File& file) {
  Result<FileId> opened = folder_->Open(file.name);
  if (!opened.ok()) {
    HM_LOG_WARN("KV blocks on disk: {}; it is left alone", opened.error().message());
    return {};
  }
  const FileId id = *opened;
  std::vector<std::byte> block(kDiskAlignment);
  Status read = file.size_bytes < kDiskAlignment
                    ? Status(Error(ErrorCode::kCorrupt, "it ends inside its header"))
                    : ReadNow(id, 0, block);
  const bool ours = HasNameOfOurs(file.name) || (read.ok() && LooksLikeSegment(block));
  const Result<SegmentHeader> header =
      read.ok() ? ParseSegmentHeader(block) : Result<SegmentHeader>(read.error());
  if (header.ok() && header->IsOf(options_.scope) && file.size_bytes == header->file_bytes()) {
    Segment segment{.name = file.name,
                    .file = id,
                    .header = *header,
                    .table = std::vector<std::byte>(header->table_bytes())};
    read = ReadNow(id, kDiskAlignment, segment.table);
    if (read.ok()) {
      size_bytes_ += header->file_bytes();
      next_number_ = std::max(next_number_, header->number + 1);
      segments_.push_back(std::move(segment));
      return {};
    }
  }
  folder_->Close(id);
  const bool other_version = !header.ok() && header.error().code() == ErrorCode::kUnsupported;
  // A disk that refuses now may do later; until then the file is of as little use as another
  // model's.
  const bool refused = !read.ok() && read.error().code() == ErrorCode::kIo;
  if (refused) HM_LOG_WARN("KV blocks on disk: {}", read.error().message());
  if ((header.ok() && !header->IsOf(options_.scope)) || other_version || refused) {
    others_.push_back({.name = file.name, .size_bytes = file.size_bytes});
    other_bytes_ += file.size_bytes;
    if (header.ok()) next_number_ = std::max(next_number_, header->number + 1);
    return {};
  }
  const std::string why = !read.ok()     ? read.error().message()
                          : !header.ok() ? header.error().message()
                                         : "it has been cut short or has grown";
  if (ours || file.size_bytes < kDiskAlignment) {
    RemoveFile(file.name, why);
  } else {
    HM_LOG_WARN("KV blocks on disk: {}/{}: {}; it is left alone", folder_->path(), file.name, why);
  }
  return {};
}

void SegmentStore::RemoveFile(const std::string& name, const std::string& why) {
  HM_LOG_INFO("KV blocks on disk: removing {}/{}: {}", folder_->path(), name, why);
  const Status removed = folder_->Remove(name);
  if (!removed.ok()) HM_LOG_WARN("KV blocks on disk: {}", removed.error().message());
  ++found_.removed_files;
}

// Segments of other models go first, then those that were written longest ago. One that cannot be
// removed ends the start: the budget is hard.
Status SegmentStore::FitBudget() {
  const auto youngest = [](const Segment& segment) {
    uint64_t stamp = 0;
    for (uint32_t slot = 0; slot < segment.header.num_slots; ++slot) {
      const auto record = ParseSlotRecord(segment.header, slot,
                                          std::span(segment.table).subspan(slot * kRecordBytes));
      if (record.has_value()) stamp = std::max(stamp, record->stamp);
    }
    return stamp;
  };
  while (size_bytes() > options_.budget_bytes) {
    if (!others_.empty()) {
      HM_TRY(folder_->Remove(others_.back().name));
      other_bytes_ -= others_.back().size_bytes;
      others_.pop_back();
    } else {
      const auto oldest = std::ranges::min_element(segments_, {}, youngest);
      folder_->Close(oldest->file);
      HM_TRY(folder_->Remove(oldest->name));
      size_bytes_ -= oldest->header.file_bytes();
      segments_.erase(oldest);
    }
    ++found_.removed_files;
  }
  found_.other_bytes = other_bytes_;
  return {};
}

void SegmentStore::NumberSlots() {
  int32_t next = 0;
  for (Segment& segment : segments_) {
    segment.first_slot = next;
    next += static_cast<int32_t>(segment.header.num_slots);
  }
}

void SegmentStore::Restore(kv::BlockCatalog* catalog) {
  struct Found {
    uint64_t stamp = 0;
    kv::BlockKey key;
    kv::SlotId slot{};
  };
  std::vector<Found> blocks;
  for (Segment& segment : segments_) {
    for (uint32_t slot = 0; slot < segment.header.num_slots; ++slot) {
      const auto record = ParseSlotRecord(segment.header, slot, RecordOf(&segment, slot));
      if (!record.has_value()) continue;
      blocks.push_back({.stamp = record->stamp,
                        .key = record->key,
                        .slot = kv::SlotId{segment.first_slot + static_cast<int32_t>(slot)}});
    }
  }
  std::ranges::sort(blocks, {}, [](const Found& f) { return std::pair(f.stamp, f.slot); });
  // Of two copies the younger counts.
  std::unordered_map<kv::BlockKey, kv::SlotId> last;
  for (const Found& block : blocks) last[block.key] = block.slot;
  for (const Found& block : blocks) {
    // Whatever a record says: stamps go on above it, and do not wrap.
    next_stamp_ = std::max(next_stamp_, std::min(block.stamp, UINT64_MAX - 1) + 1);
    if (last.at(block.key) != block.slot) continue;
    if (!catalog->Restore(block.key, kv::Tier::kDisk, block.slot)) continue;
    ++found_.blocks;
    found_.bytes += options_.scope.page_bytes;
  }
  for (const Segment& segment : segments_) {
    catalog->AddSlots(kv::Tier::kDisk, kv::SlotId{segment.first_slot},
                      static_cast<int32_t>(segment.header.num_slots));
  }
}

}  // namespace halfmoon::store
