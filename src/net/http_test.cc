// SPDX-License-Identifier: Apache-2.0
#include "net/http.h"

#include <gtest/gtest.h>

namespace halfmoon::net {
namespace {

TEST(Headers, Lookup_AnyCase_FindsFirst) {
  Headers headers = {{"X-One", "1"}, {"x-one", "2"}};
  EXPECT_EQ(headers.Find("X-ONE"), "1");
  EXPECT_EQ(headers.Count("x-One"), 2u);
  EXPECT_FALSE(headers.Find("X-Two"));
  headers.Set("X-ONE", "3");
  EXPECT_EQ(headers.size(), 1u);
  EXPECT_EQ(headers.Find("x-one"), "3");
  headers.Remove("x-one");
  EXPECT_TRUE(headers.empty());
}

TEST(Headers, HasToken_List_ComparesWholeTokens) {
  const Headers headers = {{"Connection", "Keep-Alive, close"}, {"Connection", "upgrade"}};
  EXPECT_TRUE(headers.HasToken("connection", "CLOSE"));
  EXPECT_TRUE(headers.HasToken("connection", "upgrade"));
  EXPECT_FALSE(headers.HasToken("connection", "clos"));
}

TEST(IsValidHeader, ControlCharacters_AreRefused) {
  EXPECT_TRUE(IsValidHeader("X-A", "caf\xc3\xa9\tb"));
  EXPECT_FALSE(IsValidHeader("X-A", "a\r\nSet-Cookie: b"));
  EXPECT_FALSE(IsValidHeader("X A", "b"));
  EXPECT_FALSE(IsValidHeader("", "b"));
}

TEST(PercentDecode, GoodAndBroken_Text) {
  EXPECT_EQ(*PercentDecode("a%20b+c"), "a b+c");
  EXPECT_EQ(*PercentDecode("a+b%2B", true), "a b+");
  EXPECT_EQ(*PercentDecode("Qwen%2fQwen3"), "Qwen/Qwen3");
  for (const char* broken : {"%", "%2", "a%zz", "%0g", "%00"}) {
    EXPECT_FALSE(PercentDecode(broken).ok()) << broken;
  }
  EXPECT_EQ(PercentEncode("a b/\xc3\xa9"), "a%20b%2F%C3%A9");
  EXPECT_EQ(*PercentDecode(PercentEncode("x&y=%+ z")), "x&y=%+ z");
}

TEST(ParseTarget, OriginForm_SplitsPathAndQuery) {
  const auto target = ParseTarget("/v1/models/a%2Fb?x=1&y=a+b&flag&x=2#f");
  ASSERT_TRUE(target.ok());
  EXPECT_EQ(target->path, "/v1/models/a/b");
  ASSERT_EQ(target->query.size(), 4u);
  EXPECT_EQ(target->query[1].second, "a b");
  EXPECT_EQ(target->query[2].first, "flag");
  EXPECT_EQ(target->query[3].second, "2");
  Request request;
  request.query = target->query;
  EXPECT_EQ(request.QueryValue("x"), "1");
  EXPECT_FALSE(request.QueryValue("z"));
}

TEST(ParseTarget, AbsoluteForm_GivesAuthority) {
  const auto target = ParseTarget("HTTP://example.org:80/a?b=c");
  ASSERT_TRUE(target.ok());
  EXPECT_EQ(target->authority, "example.org:80");
  EXPECT_EQ(target->path, "/a");
  EXPECT_EQ(ParseTarget("http://example.org")->path, "/");
  EXPECT_EQ(ParseTarget("http://example.org?b=c")->query.at(0).second, "c");
  EXPECT_EQ(ParseTarget("*")->path, "*");
}

TEST(ParseTarget, Garbage_IsAnError) {
  for (const char* broken : {"", "a", "http://", "http:///a", "/%zz", "/?%", "ftp://x/"}) {
    EXPECT_FALSE(ParseTarget(broken).ok()) << broken;
  }
}

TEST(ReasonPhrase, KnownAndUnknown_Codes) {
  EXPECT_EQ(ReasonPhrase(404), "Not Found");
  EXPECT_EQ(ReasonPhrase(299), "Unknown");
}

}  // namespace
}  // namespace halfmoon::net
