// SPDX-License-Identifier: Apache-2.0
// The file that keeps KV blocks on disk: a header, a table with one record a slot, the slots
// (docs/formats/kv_segment.md). A parser of outside bytes, and what writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/hash.h"
#include "base/result.h"
#include "kv/block_key.h"

namespace halfmoon::store {

/// Raised when the file or what a checksum covers changes.
inline constexpr uint32_t kSegmentVersion = 1;
/// Of every offset, size and address in direct I/O.
inline constexpr size_t kDiskAlignment = 4096;
inline constexpr size_t kRecordBytes = 64;
/// Most slots of one segment.
inline constexpr uint32_t kMaxSegmentSlots = uint32_t{1} << 20;

constexpr uint64_t AlignToDisk(uint64_t size_bytes) {
  return (size_bytes + kDiskAlignment - 1) / kDiskAlignment * kDiskAlignment;
}

/// What pages must have in common to be of use to the same process.
struct PageScope {
  std::string model_fingerprint;
  uint32_t kv_format_version = 0;
  uint32_t block_size = 0;  ///< tokens of a page
  uint64_t page_bytes = 0;
};

struct SegmentHeader {
  Hash128 model;  ///< digest of PageScope::model_fingerprint
  uint32_t kv_format_version = 0;
  uint32_t block_size = 0;
  uint64_t page_bytes = 0;
  uint32_t num_slots = 0;
  uint64_t number =
      0;  ///< of the segment among those of its folder; part of its records' checksums

  uint64_t slot_bytes() const { return AlignToDisk(page_bytes); }
  uint64_t table_bytes() const { return AlignToDisk(uint64_t{num_slots} * kRecordBytes); }
  uint64_t slot_offset(uint32_t slot) const {
    return kDiskAlignment + table_bytes() + slot * slot_bytes();
  }
  uint64_t file_bytes() const { return slot_offset(num_slots); }
  bool IsOf(const PageScope& scope) const;
};

SegmentHeader MakeSegmentHeader(const PageScope& scope, uint32_t num_slots, uint64_t number);
/// Writes the first kDiskAlignment bytes of a segment. Requires as many.
void SerializeSegmentHeader(const SegmentHeader& header, std::span<std::byte> block);
/// Whether these are the first bytes of a segment of any version.
bool LooksLikeSegment(std::span<const std::byte> bytes);
/// Errors: kCorrupt, kUnsupported for another version. The sizes of what it returns do not
/// overflow.
Result<SegmentHeader> ParseSegmentHeader(std::span<const std::byte> block);

/// What a slot holds.
struct SlotRecord {
  kv::BlockKey key;
  Hash128 page_checksum;  ///< PageChecksum(key, page)
  uint64_t stamp = 0;     ///< grows with each block that is written
};

/// Writes kRecordBytes. Requires as many, and a slot of the segment.
void SerializeSlotRecord(const SegmentHeader& header, uint32_t slot, const SlotRecord& record,
                         std::span<std::byte> bytes);
/// The record of `slot`; none where its bytes are empty, damaged or those of another slot.
std::optional<SlotRecord> ParseSlotRecord(const SegmentHeader& header, uint32_t slot,
                                          std::span<const std::byte> bytes);

/// Binds the bytes of a page to the block they are of: a page that is damaged or stands in the
/// place of another does not pass.
Hash128 PageChecksum(const kv::BlockKey& key, std::span<const std::byte> page);

}  // namespace halfmoon::store
