// SPDX-License-Identifier: Apache-2.0
#include "store/segment_format.h"

#include <gtest/gtest.h>

#include <vector>

namespace halfmoon::store {
namespace {

const PageScope kScope{
    .model_fingerprint = "m", .kv_format_version = 2, .block_size = 16, .page_bytes = 300'000};

TEST(SegmentFormat, HeaderWritten_ReadsBack) {
  const SegmentHeader header = MakeSegmentHeader(kScope, 100, 7);
  std::vector<std::byte> block(kDiskAlignment);
  SerializeSegmentHeader(header, block);
  const Result<SegmentHeader> read = ParseSegmentHeader(block);
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(read->IsOf(kScope));
  EXPECT_EQ(read->num_slots, 100u);
  EXPECT_EQ(read->number, 7u);
  EXPECT_EQ(read->table_bytes(), 8192u);
  EXPECT_EQ(read->slot_offset(0), 12288u);
  EXPECT_EQ(read->slot_bytes(), 303'104u);
}

TEST(SegmentFormat, AnyBitOfTheHeader_IsNoticed) {
  std::vector<std::byte> block(kDiskAlignment);
  SerializeSegmentHeader(MakeSegmentHeader(kScope, 100, 7), block);
  for (size_t bit = 0; bit < size_t{80} * 8; ++bit) {
    std::vector<std::byte> damaged = block;
    damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(ParseSegmentHeader(damaged).ok()) << bit;
  }
  EXPECT_EQ(ParseSegmentHeader(std::span(block).first(100)).error().code(), ErrorCode::kCorrupt);
}

TEST(SegmentFormat, OtherVersion_UnsupportedNamesBoth) {
  std::vector<std::byte> block(kDiskAlignment);
  SerializeSegmentHeader(MakeSegmentHeader(kScope, 1, 1), block);
  block[8] = std::byte{9};
  const Result<SegmentHeader> read = ParseSegmentHeader(block);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code(), ErrorCode::kUnsupported);
  EXPECT_NE(read.error().message().find("version 9"), std::string::npos);
}

TEST(SegmentFormat, Record_CountsOnlyInItsPlace) {
  const SegmentHeader header = MakeSegmentHeader(kScope, 100, 7);
  const SlotRecord record{.key = {{1, 2}}, .page_checksum = {3, 4}, .stamp = 5};
  std::vector<std::byte> bytes(kRecordBytes);
  EXPECT_FALSE(ParseSlotRecord(header, 0, bytes).has_value());
  SerializeSlotRecord(header, 9, record, bytes);
  const auto read = ParseSlotRecord(header, 9, bytes);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->key, record.key);
  EXPECT_EQ(read->page_checksum, record.page_checksum);
  EXPECT_EQ(read->stamp, 5u);
  EXPECT_FALSE(ParseSlotRecord(header, 8, bytes).has_value());
  EXPECT_FALSE(ParseSlotRecord(MakeSegmentHeader(kScope, 100, 8), 9, bytes).has_value());
  for (size_t bit = 0; bit < kRecordBytes * 8; ++bit) {
    std::vector<std::byte> damaged = bytes;
    damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(ParseSlotRecord(header, 9, damaged).has_value()) << bit;
  }
}

TEST(SegmentFormat, PageChecksum_BindsBytesToTheKey) {
  std::vector<std::byte> page(1000, std::byte{1});
  const Hash128 right = PageChecksum({{1, 2}}, page);
  EXPECT_NE(PageChecksum({{1, 3}}, page), right);
  page[999] = std::byte{2};
  EXPECT_NE(PageChecksum({{1, 2}}, page), right);
}

}  // namespace
}  // namespace halfmoon::store
