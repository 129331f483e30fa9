// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <gtest/gtest.h>

#include <string_view>
#include <unordered_set>

namespace halfmoon {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(HashBytes, KnownInputs_HaveTheAlgorithmsDigests) {
  // Published XXH3-128 digests (seed 0): block keys are on disk and on the wire, so they must never
  // change.
  EXPECT_EQ(HashBytes({}).ToHex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(HashBytes(Bytes("a")).ToHex(), "a96faf705af16834e6c632b61e964e1f");
  EXPECT_EQ(HashBytes(Bytes("abc")).ToHex(), "06b05ab6733a618578af5f94892f3950");
}

TEST(HashBytes, SeedOrContent_ChangesBothHalves) {
  const Hash128 plain = HashBytes(Bytes("prefix"));
  for (const Hash128& other : {HashBytes(Bytes("prefix"), 1), HashBytes(Bytes("prefiy"))}) {
    EXPECT_NE(plain.high, other.high);
    EXPECT_NE(plain.low, other.low);
  }
  EXPECT_EQ(plain, HashBytes(Bytes("prefix")));
}

TEST(Checksum, KnownInputs_HaveTheAlgorithmsDigests) {
  // Published XXH3-64 digests (seed 0).
  EXPECT_EQ(Checksum({}), 0x2d06800538d394c2u);
  EXPECT_EQ(Checksum(Bytes("abc")), 0x78af5f94892f3950u);
}

TEST(Hash128, ToHex_HighHalfFirstWithZeros) {
  EXPECT_EQ((Hash128{.high = 1, .low = 0xABC}).ToHex(), "00000000000000010000000000000abc");
}

TEST(Hash128, Ordered_AndUsableAsKey) {
  EXPECT_LT((Hash128{.high = 1, .low = 9}), (Hash128{.high = 2, .low = 0}));
  const std::unordered_set<Hash128> set = {{1, 2}, {1, 3}, {1, 2}};
  EXPECT_EQ(set.size(), 2u);
}

}  // namespace
}  // namespace halfmoon
