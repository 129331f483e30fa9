// SPDX-License-Identifier: Apache-2.0
#include "store/segment_format.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "base/check.h"

namespace halfmoon::store {
namespace {

constexpr std::string_view kMagic = "HMKVSEGM";
constexpr uint32_t kRecordMagic = 0x42564B48;  // "HKVB"
constexpr size_t kHeaderBytes = 72;            // its checksum not included
// A page of the largest model known is some megabytes.
constexpr uint64_t kMaxPageBytes = uint64_t{1} << 32;

// Integers are little-endian whatever the machine is.
template <typename T>
void Put(std::span<std::byte> bytes, size_t offset, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes[offset + i] = static_cast<std::byte>(static_cast<uint64_t>(value) >> (8 * i));
  }
}
template <typename T>
T Get(std::span<const std::byte> bytes, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<uint64_t>(bytes[offset + i]) << (8 * i);
  }
  return static_cast<T>(value);
}
void PutHash(std::span<std::byte> bytes, size_t offset, const Hash128& hash) {
  Put<uint64_t>(bytes, offset, hash.high);
  Put<uint64_t>(bytes, offset + 8, hash.low);
}
Hash128 GetHash(std::span<const std::byte> bytes, size_t offset) {
  return {.high = Get<uint64_t>(bytes, offset), .low = Get<uint64_t>(bytes, offset + 8)};
}

Hash128 DigestOf(const std::string& text) { return HashBytes(std::as_bytes(std::span(text))); }

// Of a record in this segment; the number keeps records of other segments out.
uint64_t RecordChecksum(const SegmentHeader& header, std::span<const std::byte> bytes) {
  return HashBytes(bytes.first(kRecordBytes - 8), header.number).low;
}

}  // namespace

bool SegmentHeader::IsOf(const PageScope& scope) const {
  return model == DigestOf(scope.model_fingerprint) &&
         kv_format_version == scope.kv_format_version && block_size == scope.block_size &&
         page_bytes == scope.page_bytes;
}

SegmentHeader MakeSegmentHeader(const PageScope& scope, uint32_t num_slots, uint64_t number) {
  return {.model = DigestOf(scope.model_fingerprint),
          .kv_format_version = scope.kv_format_version,
          .block_size = scope.block_size,
          .page_bytes = scope.page_bytes,
          .num_slots = num_slots,
          .number = number};
}

void SerializeSegmentHeader(const SegmentHeader& header, std::span<std::byte> block) {
  HM_CHECK(block.size() >= kDiskAlignment);
  std::ranges::fill(block.first(kDiskAlignment), std::byte{0});
  std::memcpy(block.data(), kMagic.data(), kMagic.size());
  Put<uint32_t>(block, 8, kSegmentVersion);
  Put<uint32_t>(block, 12, header.kv_format_version);
  Put<uint32_t>(block, 16, header.block_size);
  Put<uint32_t>(block, 20, header.num_slots);
  Put<uint64_t>(block, 24, header.page_bytes);
  PutHash(block, 32, header.model);
  Put<uint64_t>(block, 48, header.number);
  Put<uint64_t>(block, 56, header.slot_bytes());
  Put<uint64_t>(block, 64, header.file_bytes());
  Put<uint64_t>(block, kHeaderBytes, Checksum(block.first(kHeaderBytes)));
}

bool LooksLikeSegment(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<SegmentHeader> ParseSegmentHeader(std::span<const std::byte> block) {
  const auto corrupt = [](const char* what) { return Error(ErrorCode::kCorrupt, what); };
  if (block.size() < kDiskAlignment) return corrupt("it ends inside its header");
  if (!LooksLikeSegment(block)) return corrupt("it is no KV segment");
  const auto version = Get<uint32_t>(block, 8);
  if (version != kSegmentVersion) {
    return Error(ErrorCode::kUnsupported, "it has version " + std::to_string(version) +
                                              ", this program reads " +
                                              std::to_string(kSegmentVersion));
  }
  if (Get<uint64_t>(block, kHeaderBytes) != Checksum(block.first(kHeaderBytes))) {
    return corrupt("the checksum of its header is wrong");
  }
  const SegmentHeader header{.model = GetHash(block, 32),
                             .kv_format_version = Get<uint32_t>(block, 12),
                             .block_size = Get<uint32_t>(block, 16),
                             .page_bytes = Get<uint64_t>(block, 24),
                             .num_slots = Get<uint32_t>(block, 20),
                             .number = Get<uint64_t>(block, 48)};
  // Whoever can make a checksum can also make these up.
  if (header.num_slots == 0 || header.num_slots > kMaxSegmentSlots) {
    return corrupt("its number of slots is out of range");
  }
  if (header.page_bytes == 0 || header.page_bytes > kMaxPageBytes) {
    return corrupt("its page size is out of range");
  }
  if (Get<uint64_t>(block, 56) != header.slot_bytes() ||
      Get<uint64_t>(block, 64) != header.file_bytes()) {
    return corrupt("its sizes contradict each other");
  }
  return header;
}

void SerializeSlotRecord(const SegmentHeader& header, uint32_t slot, const SlotRecord& record,
                         std::span<std::byte> bytes) {
  HM_CHECK(bytes.size() >= kRecordBytes && slot < header.num_slots);
  Put<uint32_t>(bytes, 0, kRecordMagic);
  Put<uint32_t>(bytes, 4, slot);
  PutHash(bytes, 8, record.key.hash);
  PutHash(bytes, 24, record.page_checksum);
  Put<uint64_t>(bytes, 40, record.stamp);
  Put<uint64_t>(bytes, 48, 0);
  Put<uint64_t>(bytes, 56, RecordChecksum(header, bytes));
}

std::optional<SlotRecord> ParseSlotRecord(const SegmentHeader& header, uint32_t slot,
                                          std::span<const std::byte> bytes) {
  if (bytes.size() < kRecordBytes || slot >= header.num_slots) return std::nullopt;
  if (Get<uint32_t>(bytes, 0) != kRecordMagic || Get<uint32_t>(bytes, 4) != slot) {
    return std::nullopt;
  }
  if (Get<uint64_t>(bytes, 56) != RecordChecksum(header, bytes)) return std::nullopt;
  return SlotRecord{.key = {GetHash(bytes, 8)},
                    .page_checksum = GetHash(bytes, 24),
                    .stamp = Get<uint64_t>(bytes, 40)};
}

Hash128 PageChecksum(const kv::BlockKey& key, std::span<const std::byte> page) {
  std::array<std::byte, 32> both;
  PutHash(both, 0, key.hash);
  PutHash(both, 16, HashBytes(page));
  return HashBytes(both);
}

}  // namespace halfmoon::store
