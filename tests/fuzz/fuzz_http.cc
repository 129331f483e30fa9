// SPDX-License-Identifier: Apache-2.0
// Bytes from a network peer: the server's request parser, the client's response parser and the SSE
// parser. Each message is parsed whole and in pieces; the way it was cut must not change what it
// says.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "net/message_parser.h"
#include "net/sse.h"

namespace halfmoon::net {
namespace {

constexpr MessageLimits kLimits = {.max_header_bytes = 4096, .max_body_bytes = 4096};

// The first byte of an input says into what pieces the rest is cut.
size_t PieceBytes(uint8_t seed) { return 1 + seed % 37; }

void AppendRequest(const Request& request, std::string* log) {
  log->append(request.method).append(" ").append(request.path).append("\n");
  for (const auto& [name, value] : request.query) {
    log->append(name).append("=").append(value).append("\n");
  }
  for (const Headers::Field& field : request.headers) {
    HM_CHECK(IsValidHeader(field.name, field.value), "an invalid header was accepted");
    log->append(field.name).append(":").append(field.value).append("\n");
  }
  log->append(request.body).append("\n");
}

// What a connection would make of `bytes` arriving in pieces of `piece_bytes`.
std::string ParseRequests(std::string_view bytes, size_t piece_bytes) {
  RequestParser parser(kLimits);
  std::string log;
  while (!bytes.empty()) {
    const size_t take = std::min(piece_bytes, bytes.size());
    parser.Append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    while (parser.Advance() == ParseState::kDone) {
      Request request = parser.TakeRequest();
      HM_CHECK(request.body.size() <= kLimits.max_body_bytes, "body over its limit");
      HM_CHECK(!request.path.empty(), "empty path");
      AppendRequest(request, &log);
    }
    if (parser.Advance() == ParseState::kFailed) {
      HM_CHECK(parser.failure_status() >= 400, "failure without a status");
      return log + std::to_string(parser.failure_status());
    }
  }
  return log;
}

std::string ParseResponse(std::string_view bytes, size_t piece_bytes) {
  ResponseParser parser(kLimits, false);
  std::string body;
  ParseState state = ParseState::kIdle;
  while (!bytes.empty() && state != ParseState::kDone && state != ParseState::kFailed) {
    const size_t take = std::min(piece_bytes, bytes.size());
    parser.Append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    state = parser.Advance();
    body += parser.TakeBody();
  }
  state = parser.Eof();
  HM_CHECK(body.size() <= kLimits.max_body_bytes, "body over its limit");
  // A failed response has no body worth comparing: how much of it arrived before depends on the
  // pieces.
  if (state != ParseState::kDone) return "failed";
  return std::to_string(parser.head().status) + body;
}

std::string ParseEvents(std::string_view bytes, size_t piece_bytes) {
  std::string log;
  SseParser parser(
      [&](const SseMessage& message) {
        log.append(message.type).append("\n").append(message.id).append("\n");
        log.append(message.data).append("\n");
      },
      4096);
  while (!bytes.empty()) {
    const size_t take = std::min(piece_bytes, bytes.size());
    if (!parser.Feed(bytes.substr(0, take)).ok()) return log + "failed";
    bytes.remove_prefix(take);
  }
  return log;
}

}  // namespace
}  // namespace halfmoon::net

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace halfmoon::net;
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece_bytes = PieceBytes(data[0]);
  HM_CHECK(ParseRequests(bytes, SIZE_MAX) == ParseRequests(bytes, piece_bytes), "requests differ");
  HM_CHECK(ParseResponse(bytes, SIZE_MAX) == ParseResponse(bytes, piece_bytes), "responses differ");
  HM_CHECK(ParseEvents(bytes, SIZE_MAX) == ParseEvents(bytes, piece_bytes), "events differ");
  return 0;
}
