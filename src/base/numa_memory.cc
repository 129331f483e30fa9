// SPDX-License-Identifier: Apache-2.0
#include "base/numa_memory.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdint>

namespace halfmoon {
namespace {

constexpr size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
constexpr size_t kMaxNodes = 1024;  // of any Linux kernel

}  // namespace

bool PlaceOnNode(std::span<const std::byte> bytes, int node) {
  if (node < 0 || static_cast<size_t>(node) >= kMaxNodes) return false;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t begin = (address + page - 1) / page * page;
  const uintptr_t end = (address + bytes.size()) / page * page;
  if (begin >= end) return true;
  std::array<unsigned long, kMaxNodes / kWordBits> mask{};
  const auto index = static_cast<size_t>(node);
  mask[index / kWordBits] = 1UL << (index % kWordBits);
  // The kernel takes the number of bits plus one.
  return ::syscall(SYS_mbind, begin, end - begin, MPOL_PREFERRED, mask.data(), kMaxNodes + 1, 0) ==
         0;
}

}  // namespace halfmoon
