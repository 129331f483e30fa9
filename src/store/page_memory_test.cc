// SPDX-License-Identifier: Apache-2.0
#include "store/page_memory.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace halfmoon::store {
namespace {

TEST(PageMemory, Created_AlignedAndZeroed) {
  Result<PageMemory> memory = PageMemory::Create(3, 128);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->base()) % 64, 0u);
  for (size_t i = 0; i < size_t{3} * 128; ++i) EXPECT_EQ(memory->base()[i], std::byte{0});
}

TEST(PageMemory, SizeBeyondAddressSpace_ResourceExhausted) {
  const Result<PageMemory> overflow = PageMemory::Create(1 << 30, SIZE_MAX / 2);
  ASSERT_FALSE(overflow.ok());
  EXPECT_EQ(overflow.error().code(), ErrorCode::kResourceExhausted);
  const Result<PageMemory> too_large = PageMemory::Create(1, SIZE_MAX / 2);
  ASSERT_FALSE(too_large.ok());
  EXPECT_NE(too_large.error().message().find("1 KV pages"), std::string::npos);
}

TEST(PageMemory, Shared_IsAFileOfAllPages) {
  Result<PageMemory> memory = PageMemory::Create(3, 4096, PageSharing::kShared);
  ASSERT_TRUE(memory.ok());
  EXPECT_GE(memory->file(), 0);
  EXPECT_EQ(memory->bytes().size(), size_t{3} * 4096);
  EXPECT_EQ(memory->base()[8192], std::byte{0});
  EXPECT_EQ(PageMemory::Create(1, 64)->file(), -1);
}

}  // namespace
}  // namespace halfmoon::store
