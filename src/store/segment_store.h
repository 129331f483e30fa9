// SPDX-License-Identifier: Apache-2.0
// The SSD tier: KV blocks in the slots of segment files. What is in which slot is a catalog's
// business; here are bytes and the records that bring them back after a restart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kv/block_catalog.h"
#include "store/segment_folder.h"
#include "store/segment_format.h"
#include "store/store_stats.h"
#include "tensor/tensor.h"

namespace halfmoon::store {

struct SegmentStoreOptions {
  PageScope scope;
  uint64_t budget_bytes = 0;  ///< of all segments in the folder, those of other models included
};

/// A read or a write has ended.
struct SlotDone {
  enum class Kind : uint8_t { kRead, kWrite };
  Kind kind = Kind::kRead;
  uint64_t tag = 0;
  kv::SlotId slot{};
  Status status;  ///< read: kIo, kCorrupt; write: kIo, kResourceExhausted
};

/// Every block is in one slot, every slot in one segment, and all segments within the budget. A
/// page is believed only where its checksum, taken over key and bytes, is the one that the slot's
/// record has; so a crash at any instant costs blocks, and gives no wrong one. Used by one thread;
/// the folder outlives it.
class SegmentStore {
 public:
  /// Reads headers and tables of the folder's segments, no pages. Segments that are damaged or
  /// unfinished are removed, and the least useful ones where they exceed the budget; files that are
  /// no segments are left alone. Errors: kInvalidArgument where the budget holds no page, those of
  /// the folder.
  static Result<std::unique_ptr<SegmentStore>> Open(SegmentFolder* folder,
                                                    const SegmentStoreOptions& options);
  /// Waits for what is in flight; records not written by Flush are lost.
  ~SegmentStore();
  SegmentStore(const SegmentStore&) = delete;
  SegmentStore& operator=(const SegmentStore&) = delete;

  const SegmentsFound& found() const { return found_; }
  /// Fills a catalog with the blocks that were found, oldest first, and with the slots.
  void Restore(kv::BlockCatalog* catalog);

  /// Whether another segment fits the budget and none is being made.
  bool CanGrow() const;
  /// Whether a segment is being made.
  bool growing() const { return growing_.has_value(); }
  /// Starts to make another segment; its slots come from TakeNewSlots. Errors: kResourceExhausted,
  /// kIo; it may be tried again later.
  Status Grow();
  struct NewSlots {
    kv::SlotId first{};
    int32_t count = 0;
  };
  /// Slots that have come since, and whether making them failed.
  Result<std::optional<NewSlots>> TakeNewSlots();

  /// Whether a read or a write can start now.
  bool CanStart() const { return !free_buffers_.empty(); }
  /// Reads the slot into `page`, which is the store's until Poll tells of it, and holds the block's
  /// bytes where it succeeded. Requires CanStart().
  void Read(uint64_t tag, kv::SlotId slot, const kv::BlockKey& key, std::span<std::byte> page);
  /// Writes a copy of `page`, which is not needed afterwards. Requires CanStart().
  void Write(uint64_t tag, kv::SlotId slot, const kv::BlockKey& key,
             std::span<const std::byte> page);
  /// Starts to write records of blocks that have been written, as far as buffers are free.
  void StartRecords();
  /// Appends what has ended; with `wait`, waits for something if anything is in flight.
  void Poll(bool wait, std::vector<SlotDone>* done);
  /// Waits for everything in flight and writes all records. Errors: the first that was met.
  Status Flush(std::vector<SlotDone>* done);

  bool idle() const { return folder_->pending() == 0; }
  /// Of all segments.
  uint64_t size_bytes() const { return size_bytes_ + other_bytes_; }

 private:
  struct Segment {
    std::string name;
    FileId file{};
    SegmentHeader header;
    int32_t first_slot = 0;
    std::vector<std::byte> table;  // as it is to be on disk
    std::set<size_t> dirty;        // blocks of the table to be written
    std::set<size_t> being_written;
  };
  // A transfer, by the buffer that it has.
  struct Operation {
    enum class Kind : uint8_t { kNone, kRead, kWrite, kRecords, kHeader };
    Kind kind = Kind::kNone;
    uint64_t tag = 0;
    kv::SlotId slot{};
    kv::BlockKey key;
    std::span<std::byte> page;
    Hash128 checksum;
    uint64_t stamp = 0;
    size_t segment = 0;
    size_t table_block = 0;
  };
  struct OtherSegment {
    std::string name;
    uint64_t size_bytes = 0;
  };

  SegmentStore(SegmentFolder* folder, const SegmentStoreOptions& options);
  Status Load();
  Status LoadFile(const SegmentFolder::File& file);
  Status ReadNow(FileId file, uint64_t offset, std::span<std::byte> into);
  Status FitBudget();
  void RemoveFile(const std::string& name, const std::string& why);
  void NumberSlots();
  static std::string NameOf(const SegmentHeader& header);
  uint64_t NewNumber();
  uint32_t NextSlots() const;
  std::span<std::byte> Buffer(size_t index);
  size_t TakeBuffer();
  size_t SegmentOf(kv::SlotId slot) const;
  uint32_t LocalSlot(const Segment& segment, kv::SlotId slot) const {
    return static_cast<uint32_t>(kv::ToIndex(slot) - segment.first_slot);
  }
  std::span<std::byte> RecordOf(Segment* segment, uint32_t slot);
  void StartTransfer(size_t buffer, DiskTransfer::Kind kind, FileId file, uint64_t offset,
                     std::span<std::byte> bytes);
  std::span<std::byte> ReadTarget(size_t buffer, std::span<std::byte> page, size_t slot_bytes);
  std::optional<SlotDone> Finish(DiskTransferDone done);
  Status FinishRead(const Operation& operation, size_t buffer);
  void FinishHeader(Status status);

  SegmentFolder* const folder_;
  const SegmentStoreOptions options_;
  std::vector<Segment> segments_;  // by first_slot
  std::vector<OtherSegment> others_;
  std::set<std::string> names_;  // of files that were there at the start
  std::optional<Segment> growing_;
  std::optional<NewSlots> new_slots_;
  Status grow_status_;
  Status record_status_;
  SegmentsFound found_;
  uint64_t size_bytes_ = 0;
  uint64_t other_bytes_ = 0;
  uint64_t next_number_ = 1;
  uint64_t next_stamp_ = 1;
  size_t buffer_bytes_ = 0;
  tensor::AlignedBuffer buffers_;
  std::vector<Operation> operations_;  // by buffer
  std::vector<size_t> free_buffers_;
};

}  // namespace halfmoon::store
