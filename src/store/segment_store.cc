// SPDX-License-Identifier: Apache-2.0
#include "store/segment_store.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace halfmoon::store {

std::span<std::byte> SegmentStore::Buffer(size_t index) {
  std::byte* base = buffers_.data();
  const auto address = reinterpret_cast<uintptr_t>(base);
  base += (kDiskAlignment - address % kDiskAlignment) % kDiskAlignment;
  return {base + index * buffer_bytes_, buffer_bytes_};
}

size_t SegmentStore::TakeBuffer() {
  HM_CHECK(CanStart(), "no free buffer");
  const size_t index = free_buffers_.back();
  free_buffers_.pop_back();
  return index;
}

size_t SegmentStore::SegmentOf(kv::SlotId slot) const {
  const auto it = std::ranges::upper_bound(segments_, kv::ToIndex(slot), {}, &Segment::first_slot);
  HM_CHECK(it != segments_.begin(), "no slot " + std::to_string(kv::ToIndex(slot)));
  return static_cast<size_t>(it - segments_.begin()) - 1;
}

std::span<std::byte> SegmentStore::RecordOf(Segment* segment, uint32_t slot) {
  HM_CHECK(slot < segment->header.num_slots);
  return std::span(segment->table).subspan(slot * kRecordBytes, kRecordBytes);
}

void SegmentStore::StartTransfer(size_t buffer, DiskTransfer::Kind kind, FileId file,
                                 uint64_t offset, std::span<std::byte> bytes) {
  folder_->Start({.tag = buffer,
                  .kind = kind,
                  .file = file,
                  .offset = offset,
                  .size_bytes = bytes.size(),
                  .buffer = bytes.data()});
}

// Where the bytes of a slot go: where the device can write into the page itself, there.
std::span<std::byte> SegmentStore::ReadTarget(size_t buffer, std::span<std::byte> page,
                                              size_t slot_bytes) {
  const bool is_aligned = reinterpret_cast<uintptr_t>(page.data()) % kDiskAlignment == 0;
  return is_aligned && page.size() == slot_bytes ? page : Buffer(buffer).first(slot_bytes);
}

bool SegmentStore::CanGrow() const {
  return !growing_.has_value() && !new_slots_.has_value() && NextSlots() > 0;
}

std::string SegmentStore::NameOf(const SegmentHeader& header) {
  return header.model.ToHex().substr(0, 16) + "-" + std::to_string(header.number) + ".kvseg";
}

// One whose file is not there: it may be, and not be known as ours, where its header could not be
// read.
uint64_t SegmentStore::NewNumber() {
  while (names_.contains(NameOf(MakeSegmentHeader(options_.scope, 1, next_number_)))) {
    ++next_number_;
  }
  return next_number_++;
}

Status SegmentStore::Grow() {
  HM_CHECK(CanGrow() && CanStart());
  const SegmentHeader header = MakeSegmentHeader(options_.scope, NextSlots(), NewNumber());
  // Room that segments of other models take is theirs only as long as nobody needs it.
  while (!others_.empty() && size_bytes() + header.file_bytes() > options_.budget_bytes) {
    HM_TRY(folder_->Remove(others_.back().name));
    other_bytes_ -= others_.back().size_bytes;
    others_.pop_back();
  }
  Segment segment{.name = NameOf(header),
                  .header = header,
                  .table = std::vector<std::byte>(header.table_bytes())};
  // Under its own name only when its header is there: what a crash leaves is then known as such.
  const std::string unfinished = segment.name + ".tmp";
  HM_ASSIGN(segment.file, folder_->Create(unfinished, header.file_bytes()));
  size_bytes_ += header.file_bytes();
  const size_t buffer = TakeBuffer();
  SerializeSegmentHeader(header, Buffer(buffer));
  operations_[buffer] = {.kind = Operation::Kind::kHeader};
  StartTransfer(buffer, DiskTransfer::Kind::kWrite, segment.file, 0,
                Buffer(buffer).first(kDiskAlignment));
  growing_ = std::move(segment);
  return {};
}

void SegmentStore::FinishHeader(Status status) {
  Segment segment = std::move(*growing_);
  growing_.reset();
  if (status.ok()) status = folder_->Rename(segment.name + ".tmp", segment.name);
  if (!status.ok()) {
    size_bytes_ -= segment.header.file_bytes();
    folder_->Close(segment.file);
    (void)folder_->Remove(segment.name + ".tmp");
    grow_status_ = std::move(status);
    return;
  }
  segment.first_slot =
      segments_.empty()
          ? 0
          : segments_.back().first_slot + static_cast<int32_t>(segments_.back().header.num_slots);
  new_slots_ = {.first = kv::SlotId{segment.first_slot},
                .count = static_cast<int32_t>(segment.header.num_slots)};
  segments_.push_back(std::move(segment));
}

Result<std::optional<SegmentStore::NewSlots>> SegmentStore::TakeNewSlots() {
  HM_TRY(std::exchange(grow_status_, {}));
  return std::exchange(new_slots_, std::nullopt);
}

void SegmentStore::Read(uint64_t tag, kv::SlotId slot, const kv::BlockKey& key,
                        std::span<std::byte> page) {
  HM_CHECK(page.size() == options_.scope.page_bytes);
  const size_t buffer = TakeBuffer();
  const size_t index = SegmentOf(slot);
  const Segment& segment = segments_[index];
  operations_[buffer] = {.kind = Operation::Kind::kRead,
                         .tag = tag,
                         .slot = slot,
                         .key = key,
                         .page = page,
                         .segment = index};
  StartTransfer(buffer, DiskTransfer::Kind::kRead, segment.file,
                segment.header.slot_offset(LocalSlot(segment, slot)),
                ReadTarget(buffer, page, segment.header.slot_bytes()));
}

void SegmentStore::Write(uint64_t tag, kv::SlotId slot, const kv::BlockKey& key,
                         std::span<const std::byte> page) {
  HM_CHECK(page.size() == options_.scope.page_bytes);
  const size_t buffer = TakeBuffer();
  const size_t index = SegmentOf(slot);
  Segment& segment = segments_[index];
  // What was there before is gone with the first byte.
  std::ranges::fill(RecordOf(&segment, LocalSlot(segment, slot)), std::byte{0});
  const std::span<std::byte> into = Buffer(buffer);
  std::ranges::copy(page, into.begin());
  std::ranges::fill(into.subspan(page.size()), std::byte{0});
  operations_[buffer] = {.kind = Operation::Kind::kWrite,
                         .tag = tag,
                         .slot = slot,
                         .key = key,
                         .checksum = PageChecksum(key, into.first(page.size())),
                         .stamp = next_stamp_++,
                         .segment = index};
  StartTransfer(buffer, DiskTransfer::Kind::kWrite, segment.file,
                segment.header.slot_offset(LocalSlot(segment, slot)),
                into.first(segment.header.slot_bytes()));
}

void SegmentStore::StartRecords() {
  for (size_t index = 0; index < segments_.size(); ++index) {
    Segment& segment = segments_[index];
    for (auto it = segment.dirty.begin(); it != segment.dirty.end();) {
      const size_t block = *it;
      // Two writes of the same place could end in either order.
      if (segment.being_written.contains(block)) {
        ++it;
        continue;
      }
      if (!CanStart()) return;
      it = segment.dirty.erase(it);
      segment.being_written.insert(block);
      const size_t buffer = TakeBuffer();
      std::ranges::copy(std::span(segment.table).subspan(block * kDiskAlignment, kDiskAlignment),
                        Buffer(buffer).begin());
      operations_[buffer] = {
          .kind = Operation::Kind::kRecords, .segment = index, .table_block = block};
      StartTransfer(buffer, DiskTransfer::Kind::kWrite, segment.file,
                    kDiskAlignment + block * kDiskAlignment, Buffer(buffer).first(kDiskAlignment));
    }
  }
}

void SegmentStore::Poll(bool wait, std::vector<SlotDone>* done) {
  if (wait && !idle()) {
    if (std::optional<SlotDone> ended = Finish(folder_->Next())) done->push_back(*ended);
  }
  while (std::optional<DiskTransferDone> ended = folder_->TryNext()) {
    if (std::optional<SlotDone> slot = Finish(std::move(*ended))) done->push_back(*slot);
  }
}

Status SegmentStore::Flush(std::vector<SlotDone>* done) {
  for (StartRecords(); !idle(); StartRecords()) Poll(/*wait=*/true, done);
  return std::exchange(record_status_, {});
}

std::optional<SlotDone> SegmentStore::Finish(DiskTransferDone done) {
  const auto buffer = static_cast<size_t>(done.tag);
  const Operation operation = std::exchange(operations_[buffer], {});
  std::optional<SlotDone> result;
  switch (operation.kind) {
    case Operation::Kind::kNone:
      HM_CHECK(false, "a transfer that was never started has ended");
      break;
    case Operation::Kind::kRead: {
      Status status = std::move(done.status);
      if (status.ok()) status = FinishRead(operation, buffer);
      result = {.kind = SlotDone::Kind::kRead,
                .tag = operation.tag,
                .slot = operation.slot,
                .status = std::move(status)};
      break;
    }
    case Operation::Kind::kWrite: {
      if (done.status.ok()) {
        Segment& segment = segments_[operation.segment];
        const uint32_t slot = LocalSlot(segment, operation.slot);
        SerializeSlotRecord(
            segment.header, slot,
            {.key = operation.key, .page_checksum = operation.checksum, .stamp = operation.stamp},
            RecordOf(&segment, slot));
        segment.dirty.insert(slot * kRecordBytes / kDiskAlignment);
      }
      result = {.kind = SlotDone::Kind::kWrite,
                .tag = operation.tag,
                .slot = operation.slot,
                .status = std::move(done.status)};
      break;
    }
    case Operation::Kind::kRecords:
      // Its blocks are found as long as the process lives, and the next write of the same part of
      // the table brings these along.
      segments_[operation.segment].being_written.erase(operation.table_block);
      if (!done.status.ok() && record_status_.ok()) record_status_ = std::move(done.status);
      break;
    case Operation::Kind::kHeader:
      FinishHeader(std::move(done.status));
      break;
  }
  free_buffers_.push_back(buffer);
  return result;
}

Status SegmentStore::FinishRead(const Operation& operation, size_t buffer) {
  Segment& segment = segments_[operation.segment];
  const uint32_t slot = LocalSlot(segment, operation.slot);
  const auto corrupt = [&](const char* what) {
    return Error(ErrorCode::kCorrupt, folder_->path() + "/" + segment.name + ": slot " +
                                          std::to_string(slot) + ": " + what);
  };
  const std::optional<SlotRecord> record =
      ParseSlotRecord(segment.header, slot, RecordOf(&segment, slot));
  if (!record.has_value() || record->key != operation.key) {
    return corrupt("it holds another block");
  }
  const std::span<const std::byte> page =
      ReadTarget(buffer, operation.page, segment.header.slot_bytes())
          .first(options_.scope.page_bytes);
  if (PageChecksum(operation.key, page) != record->page_checksum) {
    return corrupt("the checksum of its page is wrong");
  }
  if (page.data() != operation.page.data()) std::ranges::copy(page, operation.page.begin());
  return {};
}

}  // namespace halfmoon::store
