// SPDX-License-Identifier: Apache-2.0
#include "base/numa_memory.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace halfmoon {
namespace {

int PolicyAt(std::byte* address) {
  int mode = -1;
  if (::syscall(SYS_get_mempolicy, &mode, nullptr, 0, address, MPOL_F_ADDR) != 0) return -1;
  return mode;
}

TEST(PlaceOnNode, WholePagesOfThePart_PreferTheNode) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  void* mapped =
      ::mmap(nullptr, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(mapped);
  // From the middle of page 1 to the middle of page 5.
  if (!PlaceOnNode({bytes + page + page / 2, 4 * page}, 0)) {
    ::munmap(mapped, 8 * page);
    GTEST_SKIP() << "this system lets no process place memory";
  }
  EXPECT_EQ(PolicyAt(bytes + page), MPOL_DEFAULT);
  EXPECT_EQ(PolicyAt(bytes + 2 * page), MPOL_PREFERRED);
  EXPECT_EQ(PolicyAt(bytes + 4 * page), MPOL_PREFERRED);
  EXPECT_EQ(PolicyAt(bytes + 5 * page), MPOL_DEFAULT);
  bytes[3 * page] = std::byte{7};
  EXPECT_EQ(bytes[3 * page], std::byte{7});
  ::munmap(mapped, 8 * page);
}

TEST(PlaceOnNode, NoSuchNode_Refused) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  void* mapped =
      ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const std::span bytes(static_cast<const std::byte*>(mapped), 2 * page);
  EXPECT_FALSE(PlaceOnNode(bytes, -1));
  EXPECT_FALSE(PlaceOnNode(bytes, 1000));
  EXPECT_FALSE(PlaceOnNode(bytes, 1 << 20));
  ::munmap(mapped, 2 * page);
}

}  // namespace
}  // namespace halfmoon
