// SPDX-License-Identifier: Apache-2.0
#include "base/shared_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace halfmoon {
namespace {

TEST(SharedMemory, SecondMapping_SeesTheSameBytes) {
  Result<SharedMemory> memory = SharedMemory::Create("test", 100'000);
  ASSERT_TRUE(memory.ok()) << memory.error().message();
  memory->bytes()[99'999] = std::byte{7};
  void* other = ::mmap(nullptr, 100'000, PROT_READ, MAP_SHARED, memory->file(), 0);
  ASSERT_NE(other, MAP_FAILED);
  EXPECT_EQ(static_cast<std::byte*>(other)[99'999], std::byte{7});
  EXPECT_EQ(static_cast<std::byte*>(other)[0], std::byte{0});
  ::munmap(other, 100'000);
}

TEST(SharedMemory, Size_IsSealed) {
  Result<SharedMemory> memory = SharedMemory::Create("test", 8192);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(::ftruncate(memory->file(), 0), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST(SharedMemory, Moved_OwnsOnce) {
  Result<SharedMemory> memory = SharedMemory::Create("test", 4096);
  ASSERT_TRUE(memory.ok());
  SharedMemory first = std::move(*memory);
  SharedMemory second;
  second = std::move(first);
  second.bytes()[0] = std::byte{1};
  EXPECT_EQ(second.bytes().size(), 4096u);
}

TEST(SharedMemory, BeyondTheAddressSpace_ResourceExhausted) {
  const Result<SharedMemory> memory = SharedMemory::Create("test", size_t{1} << 62);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.error().code(), ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace halfmoon
