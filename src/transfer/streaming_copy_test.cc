// SPDX-License-Identifier: Apache-2.0
#include "transfer/streaming_copy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace halfmoon::transfer {
namespace {

TEST(StreamingCopy, EverySizeAndAlignment_CopiesThoseBytesOnly) {
  constexpr size_t kLarge = 300 << 10;
  std::vector<std::byte> from(kLarge + 200);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 2654435761 >> 11);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1000}, kLarge, kLarge + 1, kLarge + 63}) {
    for (const size_t to_shift : {0, 1, 16, 63}) {
      for (const size_t from_shift : {0, 3, 64}) {
        std::vector<std::byte> to(size + 200, std::byte{0xaa});
        StreamingCopy(to.data() + to_shift, from.data() + from_shift, size);
        std::vector<std::byte> expected(size + 200, std::byte{0xaa});
        std::memcpy(expected.data() + to_shift, from.data() + from_shift, size);
        ASSERT_EQ(to, expected) << size << " bytes from " << from_shift << " to " << to_shift;
      }
    }
  }
}

}  // namespace
}  // namespace halfmoon::transfer
