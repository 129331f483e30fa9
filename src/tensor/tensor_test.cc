// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace halfmoon::tensor {
namespace {

TEST(Shape, NumElements_OrdinaryDims_IsProduct) {
  EXPECT_EQ(Shape({640, 96}).NumElements(), 640 * 96);
  EXPECT_EQ(Shape().NumElements(), 1);
  EXPECT_EQ(Shape({5, 0, 7}).NumElements(), 0);
}

TEST(Shape, NumElements_NegativeOrOverflow_IsEmpty) {
  EXPECT_EQ(Shape({3, -1}).NumElements(), std::nullopt);
  EXPECT_EQ(Shape({0, -1}).NumElements(), std::nullopt);
  EXPECT_EQ(Shape({int64_t{1} << 32, int64_t{1} << 32}).NumElements(), std::nullopt);
  EXPECT_EQ(Shape({int64_t{1} << 32, int64_t{1} << 32, 0}).NumElements(), 0);
}

TEST(Shape, ToString_AnyRank_ListsDims) {
  EXPECT_EQ(Shape({640, 96}).ToString(), "[640, 96]");
  EXPECT_EQ(Shape().ToString(), "[]");
}

TEST(SizeBytes, PlainAndBlockTypes_CountBlocks) {
  EXPECT_EQ(*SizeBytes(DType::kBF16, Shape({3, 5})), 30u);
  EXPECT_EQ(*SizeBytes(DType::kF32, Shape()), 4u);
  EXPECT_EQ(*SizeBytes(DType::kQ4_1, Shape({2, 64})), 2u * 2 * 20);
  EXPECT_EQ(*SizeBytes(DType::kQ6_K, Shape({3, 256})), 3u * 210);
  EXPECT_EQ(*SizeBytes(DType::kQ6_K, Shape({3, 0})), 0u);
}

TEST(SizeBytes, PartialBlockOrOverflow_IsCorrupt) {
  const auto partial = SizeBytes(DType::kQ4_K, Shape({256, 100}));
  ASSERT_FALSE(partial.ok());
  EXPECT_EQ(partial.error().code(), ErrorCode::kCorrupt);
  EXPECT_NE(partial.error().message().find("Q4_K [256, 100]"), std::string::npos);
  EXPECT_FALSE(SizeBytes(DType::kQ4_0, Shape()).ok());
  EXPECT_FALSE(SizeBytes(DType::kF64, Shape({int64_t{1} << 61})).ok());
  EXPECT_FALSE(SizeBytes(DType::kF32, Shape({-4})).ok());
}

TEST(Info, EveryType_HasItsOwnName) {
  EXPECT_EQ(Info(DType::kF32).name, "F32");
  EXPECT_EQ(Info(DType::kF8E8M0).name, "F8_E8M0");
  EXPECT_EQ(Info(DType::kQ4_K).block_bytes, 144);
  EXPECT_EQ(Info(DType::kQ6_K).name, "Q6_K");
}

TEST(AlignedBuffer, AnySize_IsAlignedAndZero) {
  for (const size_t size : {size_t{1}, size_t{4096}, size_t{100'000}, size_t{9'000'001}}) {
    AlignedBuffer buffer(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % AlignedBuffer::kAlignment, 0u);
    EXPECT_EQ(buffer.size_bytes(), size);
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + size,
                            [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(buffer.as<uint8_t>(), size, uint8_t{7});
    EXPECT_EQ(buffer.as<uint8_t>()[size - 1], 7);
  }
}

TEST(AlignedBuffer, Move_HandsOverTheMemory) {
  AlignedBuffer first(64);
  std::byte* data = first.data();
  AlignedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  AlignedBuffer third;
  EXPECT_EQ(third.data(), nullptr);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size_bytes(), 64u);
}

TEST(AlignedBuffer, ImpossibleSize_ThrowsBadAlloc) {
  EXPECT_THROW(AlignedBuffer{SIZE_MAX}, std::bad_alloc);
  EXPECT_THROW(AlignedBuffer{size_t{1} << 62}, std::bad_alloc);
}

}  // namespace
}  // namespace halfmoon::tensor
