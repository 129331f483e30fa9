// SPDX-License-Identifier: Apache-2.0
#include "net/sse.h"

#include <gtest/gtest.h>

#include <vector>

namespace halfmoon::net {
namespace {

std::vector<SseMessage> ParseInPieces(std::string_view stream, size_t piece) {
  std::vector<SseMessage> messages;
  SseParser parser([&](const SseMessage& message) { messages.push_back(message); });
  for (size_t i = 0; i < stream.size(); i += piece) {
    EXPECT_TRUE(parser.Feed(stream.substr(i, piece)).ok());
  }
  return messages;
}

TEST(SseFormat, Data_EveryKindOfLine) {
  EXPECT_EQ(SseData("[DONE]"), "data: [DONE]\n\n");
  EXPECT_EQ(SseData("a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
  EXPECT_EQ(SseData(""), "data: \n\n");
  EXPECT_EQ(SseComment("alive\nstill"), ": alive\n: still\n\n");
  EXPECT_EQ(SseEvent("er\nror", "x", "7"), "event: error\nid: 7\ndata: x\n\n");
}

TEST(SseParser, AnySplit_GivesSameEvents) {
  const std::string stream =
      "\xEF\xBB\xBF: hello\r\ndata: one\r\n\r\nevent: delta\rdata: two\rdata:three\rid: 9\r\r"
      "retry: 250\ndata\n\nretry: x\nid: a\ndata: {\"a\": 1}\n\n: only a comment\n\ndata: "
      "unfinished";
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    const auto messages = ParseInPieces(stream, piece);
    ASSERT_EQ(messages.size(), 4u) << piece;
    EXPECT_EQ(messages[0].data, "one");
    EXPECT_EQ(messages[0].type, "message");
    EXPECT_EQ(messages[1].type, "delta");
    EXPECT_EQ(messages[1].data, "two\nthree");
    EXPECT_EQ(messages[1].id, "9");
    EXPECT_EQ(messages[2].data, "");
    EXPECT_EQ(messages[2].retry_ms, 250);
    EXPECT_EQ(messages[2].id, "9");
    EXPECT_EQ(messages[3].data, "{\"a\": 1}");
    EXPECT_FALSE(messages[3].retry_ms);
  }
}

TEST(SseParser, FormattedText_ComesBack) {
  const auto messages = ParseInPieces(SseEvent("t", " a\n\nb\n") + SseData("c"), 3);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].data, " a\n\nb\n");
  EXPECT_EQ(messages[1].data, "c");
}

TEST(SseParser, EventOverBound_IsAnErrorThatStays) {
  int count = 0;
  SseParser parser([&](const SseMessage&) { ++count; }, 64);
  EXPECT_TRUE(parser.Feed("data: ok\n\n").ok());
  EXPECT_EQ(parser.Feed("data: " + std::string(100, 'x')).error().code(),
            ErrorCode::kResourceExhausted);
  EXPECT_FALSE(parser.Feed("\n\ndata: y\n\n").ok());
  EXPECT_EQ(count, 1);

  SseParser lines([&](const SseMessage&) { ++count; }, 64);
  Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) status = lines.Feed("data: 0123456789\n");
  EXPECT_FALSE(status.ok());
}

}  // namespace
}  // namespace halfmoon::net
