// SPDX-License-Identifier: Apache-2.0
// The memory that peers may read, and who is being sent from it now.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "transfer/descriptor.h"

namespace halfmoon::transfer {

class SegmentTable;

/// Keeps a segment's memory from being taken back. Move-only; goes before its table.
class SegmentPin {
 public:
  SegmentPin() = default;
  SegmentPin(SegmentPin&& other) noexcept { *this = std::move(other); }
  SegmentPin& operator=(SegmentPin&& other) noexcept {
    std::swap(table_, other.table_);
    std::swap(segment_, other.segment_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  SegmentPin(const SegmentPin&) = delete;
  SegmentPin& operator=(const SegmentPin&) = delete;
  ~SegmentPin();

  /// Another one of the same segment.
  SegmentPin Copy() const;
  uint64_t segment() const { return segment_; }
  std::span<const std::byte> memory() const { return memory_; }

 private:
  friend class SegmentTable;
  SegmentTable* table_ = nullptr;
  uint64_t segment_ = 0;
  std::span<const std::byte> memory_;
};

/// A segment's memory file, open for reading only.
struct SharedFile {
  int fd = -1;  ///< -1: none. The table's
  uint64_t offset = 0;
};

/// Thread-safe.
class SegmentTable {
 public:
  struct Entry {
    uint64_t segment = 0;
    Secret secret = {};
  };
  /// Errors: kIo; kInvalidArgument for a memory file that is none, too small, or not to be sealed.
  Result<Entry> Add(std::span<const std::byte> memory, int memory_file, uint64_t file_offset);

  /// Empty where there is no such segment, it is going, or the secret is another.
  std::optional<SegmentPin> Pin(uint64_t segment, const Secret& secret);
  /// Of a pinned segment.
  SharedFile FileOf(const SegmentPin& pin) const;

  /// No pin from now on. True once there is none left, false where that takes longer than told.
  bool Close(uint64_t segment, TimeUs timeout_us);
  /// Requires Close, and that there is no pin left.
  void Remove(uint64_t segment);
  size_t size() const;

 private:
  friend class SegmentPin;
  void AddPin(uint64_t segment);
  void Unpin(uint64_t segment);

  struct Record {
    std::span<const std::byte> memory;
    Secret secret = {};
    FileDescriptor file;
    uint64_t file_offset = 0;
    int pins = 0;
    bool closing = false;
  };
  mutable std::mutex mutex_;
  std::condition_variable unpinned_;
  std::map<uint64_t, Record> records_;  // GUARDED_BY(mutex_)
  uint64_t next_id_ = 1;                // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::transfer
