// SPDX-License-Identifier: Apache-2.0
#include "net/message_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace halfmoon::net {
namespace {

constexpr MessageLimits kLimits = {.max_header_bytes = 1024, .max_body_bytes = 64};

// The status a request is refused with, 0 where it is complete, -1 where more bytes are expected.
int StatusOf(std::string_view bytes, size_t piece = SIZE_MAX) {
  RequestParser parser(kLimits);
  ParseState state = ParseState::kIdle;
  for (size_t i = 0; i < bytes.size(); i += std::min(piece, bytes.size())) {
    parser.Append(bytes.substr(i, piece));
    state = parser.Advance();
    if (state == ParseState::kFailed) return parser.failure_status();
    if (state == ParseState::kDone) return 0;
  }
  return -1;
}

TEST(RequestParser, AnySplit_GivesTheSameTwoRequests) {
  const std::string bytes =
      "\r\nPOST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3;ext=\"v\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
      "PUT /2 HTTP/1.1\r\nhOST: y\r\nContent-Length: 4\r\n\r\nbody";
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    RequestParser parser(kLimits);
    std::vector<Request> requests;
    for (size_t i = 0; i < bytes.size(); i += piece) {
      parser.Append(std::string_view(bytes).substr(i, piece));
      while (parser.Advance() == ParseState::kDone) requests.push_back(parser.TakeRequest());
    }
    ASSERT_EQ(requests.size(), 2u) << piece;
    EXPECT_EQ(requests[0].method, "POST");
    EXPECT_EQ(requests[0].path, "/a b");
    EXPECT_EQ(requests[0].body, "abc0123456789");
    EXPECT_FALSE(requests[0].headers.Find("Trailer"));
    EXPECT_EQ(requests[1].path, "/2");
    EXPECT_EQ(requests[1].headers.Find("Host"), "y");
    EXPECT_EQ(requests[1].body, "body");
    EXPECT_EQ(parser.buffered_bytes(), 0u);
  }
}

TEST(RequestParser, AmbiguousLength_Is400) {
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(StatusOf(head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400);
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
            400);
  EXPECT_EQ(StatusOf(head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 400);
  EXPECT_EQ(StatusOf(head + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"), 400);
  EXPECT_EQ(StatusOf(head + "Content-Length: 3, 3\r\n\r\nabc"), 400);
  for (const char* length : {"+3", "-3", "0x3", "3 3", "", "3;", "99999999999999999999999"}) {
    EXPECT_EQ(StatusOf(head + "Content-Length: " + length + "\r\n\r\nabc"), 400) << length;
  }
  EXPECT_EQ(StatusOf(head + "Content-Length : 3\r\n\r\nabc"), 400);
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400);
  EXPECT_EQ(StatusOf("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  for (const char* coding :
       {"gzip, chunked", "chunked, gzip", "xchunked", "identity", "chunked;q=1"}) {
    EXPECT_EQ(StatusOf(head + "Transfer-Encoding: " + coding + "\r\n\r\n0\r\n\r\n"), 501) << coding;
  }
}

TEST(RequestParser, MalformedHead_Is400) {
  for (const char* bytes :
       {"GET / HTTP/1.1\nHost: x\n\n", "GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /\r\n\r\n", "\x16\x03\x01\r\n\r\n",
        "GET / HTTP/1.1\r\nHost x\r\n\r\n", "GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: x\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n", "G\tT / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n"}) {
    EXPECT_EQ(StatusOf(bytes), 400) << bytes;
    EXPECT_EQ(StatusOf(bytes, 1), 400) << bytes;
  }
  const std::string zero(1, '\0');
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: x\r\nA: " + zero + "\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(StatusOf("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(StatusOf("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
  EXPECT_EQ(StatusOf("POST / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n"), 417);
}

TEST(RequestParser, MalformedChunks_Are400) {
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char* body :
       {"x\r\n", "\r\n", "-1\r\n", "0x3\r\nabc\r\n", "3 \r\nabc\r\n", "3\nabc\r\n", "3\r\nabcd\r\n",
        "3\r\nabc0\r\n", "3;a\x01\r\n", "1000000000000000\r\n", "0\r\nA: b\n\r\n", "0\r\n\rx"}) {
    EXPECT_EQ(StatusOf(head + body), 400) << body;
    EXPECT_EQ(StatusOf(head + body, 1), 400) << body;
  }
  EXPECT_EQ(StatusOf(head + "1;" + std::string(5000, 'e')), 400);
  std::string trailers = "0\r\n";
  for (int i = 0; i < 300; ++i) trailers += "T: " + std::string(100, 't') + "\r\n";
  EXPECT_EQ(StatusOf(head + trailers), 400);
}

TEST(RequestParser, OverLimits_Are431And413) {
  EXPECT_EQ(StatusOf("GET /" + std::string(2000, 'a')), 431);
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(2000, 'a') + "\r\n\r\n", 7),
            431);
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(StatusOf(head + "Content-Length: 65\r\n\r\n"), 413);
  EXPECT_EQ(StatusOf(head + "Content-Length: 64\r\n\r\n" + std::string(64, 'b')), 0);
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: chunked\r\n\r\n41\r\n"), 413);
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: chunked\r\n\r\n30\r\n" + std::string(48, 'b') +
                     "\r\n11\r\n"),
            413);
}

TEST(RequestParser, ConnectionFields_DecideKeepAlive) {
  const auto keep_alive = [](const std::string& bytes) {
    RequestParser parser(kLimits);
    parser.Append(bytes);
    EXPECT_EQ(parser.Advance(), ParseState::kDone) << bytes;
    return parser.keep_alive();
  };
  EXPECT_TRUE(keep_alive("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_FALSE(keep_alive("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n"));
  EXPECT_FALSE(keep_alive("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(keep_alive("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

TEST(RequestParser, AbsoluteForm_ReplacesHost) {
  RequestParser parser(kLimits);
  parser.Append("GET http://real:1/p?q=1 HTTP/1.1\r\nHost: other\r\n\r\n");
  ASSERT_EQ(parser.Advance(), ParseState::kDone);
  const Request request = parser.TakeRequest();
  EXPECT_EQ(request.headers.Find("Host"), "real:1");
  EXPECT_EQ(request.path, "/p");
}

TEST(ResponseParser, EveryFraming_IsUnderstood) {
  const auto body_of = [](const std::string& bytes, bool to_head, bool eof) {
    ResponseParser parser(kLimits, to_head);
    std::string body;
    ParseState state = ParseState::kIdle;
    for (const char c : bytes) {
      parser.Append({&c, 1});
      state = parser.Advance();
      body += parser.TakeBody();
    }
    if (eof) state = parser.Eof();
    return (state == ParseState::kDone ? "done:" : "not done:") + body;
  };
  const std::string ok = "HTTP/1.1 200 OK\r\n";
  EXPECT_EQ(body_of(ok + "Content-Length: 3\r\n\r\nabc", false, false), "done:abc");
  EXPECT_EQ(body_of(ok + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", false, false),
            "done:a");
  EXPECT_EQ(body_of(ok + "\r\nuntil close", false, true), "done:until close");
  EXPECT_EQ(body_of(ok + "Content-Length: 3\r\n\r\n", true, false), "done:");
  EXPECT_EQ(body_of("HTTP/1.1 204 No Content\r\n\r\n", false, false), "done:");
  EXPECT_EQ(
      body_of("HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 1\r\n\r\nx", false, false),
      "done:x");
  EXPECT_EQ(body_of(ok + "Content-Length: 3\r\n\r\nab", false, true), "not done:ab");
  EXPECT_EQ(body_of(ok + "Content-Length: 65\r\n\r\n", false, true), "not done:");
  EXPECT_EQ(body_of("HTTP/1.1 2x0 OK\r\n\r\n", false, true), "not done:");
  EXPECT_EQ(body_of("", false, true), "not done:");
}

}  // namespace
}  // namespace halfmoon::net
