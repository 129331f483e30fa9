// SPDX-License-Identifier: Apache-2.0
#include "net/digest.h"

#include <gtest/gtest.h>

namespace halfmoon::net {
namespace {

std::string HexOf(DigestKind kind, std::initializer_list<std::string_view> pieces) {
  Result<Digest> digest = Digest::Start(kind);
  EXPECT_TRUE(digest.ok());
  for (const std::string_view piece : pieces) digest->Update(piece);
  return digest->Finish();
}

// The examples of FIPS 180-4 and its test vectors.
TEST(Digest, KnownMessages_HaveTheirPublishedDigests) {
  EXPECT_EQ(HexOf(DigestKind::kSha256, {"abc"}),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexOf(DigestKind::kSha256, {}),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexOf(DigestKind::kSha1, {"abc"}), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(Digest, Pieces_GiveTheDigestOfTheWhole) {
  EXPECT_EQ(HexOf(DigestKind::kSha256, {"a", "", "bc"}), HexOf(DigestKind::kSha256, {"abc"}));
  // The name git gives to a file that holds "hello\n".
  EXPECT_EQ(HexOf(DigestKind::kSha1, {std::string_view("blob 6\0", 7), "hello\n"}),
            "ce013625030ba8dba906f756967f9e9ca394464a");
}

// RFC 4231, test cases 2 and 6.
TEST(HmacSha256, KnownMessages_HaveTheirPublishedCodes) {
  auto first_bytes = [](const Result<std::string>& code) {
    EXPECT_TRUE(code.ok());
    EXPECT_EQ(code->size(), 32u);
    return code->substr(0, 4);
  };
  EXPECT_EQ(first_bytes(HmacSha256("Jefe", "what do ya want for nothing?")), "\x5b\xdc\xc1\x46");
  EXPECT_EQ(first_bytes(HmacSha256(std::string(131, '\xaa'),
                                   "Test Using Larger Than Block-Size Key - Hash Key First")),
            "\x60\xe4\x31\x59");
}

TEST(SecretsEqual, AnyDifference_IsSeen) {
  EXPECT_TRUE(SecretsEqual("", ""));
  EXPECT_TRUE(SecretsEqual("abc", "abc"));
  EXPECT_FALSE(SecretsEqual("abc", "abd"));
  EXPECT_FALSE(SecretsEqual("abc", "abcd"));
}

TEST(RandomBytes, EachIsAnotherAndAsLongAsAsked) {
  EXPECT_EQ(RandomBytes(32)->size(), 32u);
  EXPECT_NE(*RandomBytes(32), *RandomBytes(32));
  EXPECT_TRUE(RandomBytes(0)->empty());
}

}  // namespace
}  // namespace halfmoon::net
