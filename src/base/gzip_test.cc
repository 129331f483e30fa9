// SPDX-License-Identifier: Apache-2.0
#include "base/gzip.h"

#include <gtest/gtest.h>

namespace halfmoon {
namespace {

// printf 'half\nmoon\n' | gzip -9n
constexpr unsigned char kBytes[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03,
                                    0xcb, 0x48, 0xcc, 0x49, 0xe3, 0xca, 0xcd, 0xcf, 0xcf, 0xe3,
                                    0x02, 0x00, 0xdb, 0x21, 0xdc, 0xfe, 0x0a, 0x00, 0x00, 0x00};
const std::string kHalfmoon(reinterpret_cast<const char*>(kBytes), sizeof(kBytes));

TEST(Gunzip_Members, AreJoined) {
  EXPECT_TRUE(IsGzip(kHalfmoon));
  EXPECT_EQ(Gunzip(kHalfmoon, 100).value(), "half\nmoon\n");
  EXPECT_EQ(Gunzip(kHalfmoon + kHalfmoon, 100).value(), "half\nmoon\nhalf\nmoon\n");
  EXPECT_EQ(Gunzip(kHalfmoon, 10).value(), "half\nmoon\n");
}

TEST(Gunzip_BadInput, IsNamed) {
  EXPECT_FALSE(IsGzip("{\"a\""));
  EXPECT_EQ(Gunzip("{\"a\": 1}", 100).error().code(), ErrorCode::kCorrupt);
  EXPECT_EQ(Gunzip("", 100).error().code(), ErrorCode::kCorrupt);
  for (size_t cut = 1; cut < kHalfmoon.size(); ++cut) {
    EXPECT_EQ(Gunzip(kHalfmoon.substr(0, cut), 100).error().code(), ErrorCode::kCorrupt) << cut;
  }
  std::string flipped = kHalfmoon;
  flipped[12] ^= 1;
  EXPECT_FALSE(Gunzip(flipped, 100).ok());
  EXPECT_EQ(Gunzip(kHalfmoon, 9).error().code(), ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace halfmoon
