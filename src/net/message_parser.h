// SPDX-License-Identifier: Apache-2.0
// Internal to net: HTTP/1.x messages from bytes, without sockets, so that tests and fuzzers feed it
// directly. Heads are read by Beast (in message_parser.cc only) and then checked for everything
// that could make two readers of the same bytes disagree about where a message ends.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "net/body_decoder.h"
#include "net/http.h"

namespace halfmoon::net {

struct MessageLimits {
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 32 << 20;
};

/// Where a parser is in its message.
enum class ParseState {
  kIdle,    ///< No byte of a message yet.
  kHead,    ///< In the request or status line or the fields.
  kBody,    ///< Head is known, body is not complete.
  kDone,    ///< Complete.
  kFailed,  ///< Not HTTP, or over a limit; the connection cannot go on.
};

/// Bytes not yet parsed, with the search for the end of a head. Not thread-safe.
class HeadBuffer {
 public:
  void Append(std::string_view bytes);
  std::string_view rest() const { return std::string_view(bytes_).substr(begin_); }
  void Consume(size_t count);

  /// Length of the head at the front including its empty line; 0 where it is not complete. Errors:
  /// kCorrupt for a line end without carriage return or a folded line (both are read differently by
  /// different servers), kResourceExhausted over `max_bytes`.
  Result<size_t> FindHead(size_t max_bytes);

 private:
  std::string bytes_;
  size_t begin_ = 0;
  size_t scanned_ = 0;  // Of rest(), lines already checked.
};

/// Requests of one connection, one after the other. Not thread-safe.
class RequestParser {
 public:
  explicit RequestParser(MessageLimits limits) : limits_(limits) {}

  void Append(std::string_view bytes) { buffer_.Append(bytes); }
  /// Parses as far as the bytes go and returns where it stands. Stays at kDone until TakeRequest.
  ParseState Advance();
  /// Bytes waiting after the request in progress.
  size_t buffered_bytes() const { return buffer_.rest().size(); }

  /// Known from kBody on, until the next Advance after TakeRequest.
  bool http11() const { return http11_; }
  bool keep_alive() const { return keep_alive_; }
  bool expects_continue() const { return expects_continue_; }

  /// Requires state kDone. `peer` is left empty. The next Advance begins the next request.
  Request TakeRequest();

  /// Requires state kFailed: the status to answer with and why.
  int failure_status() const { return failure_status_; }
  const std::string& failure_message() const { return failure_message_; }

 private:
  ParseState Fail(int status, std::string message);
  ParseState ParseHead(size_t size_bytes);
  ParseState ChooseFraming();

  const MessageLimits limits_;
  HeadBuffer buffer_;
  ParseState state_ = ParseState::kIdle;
  Request request_;
  BodyDecoder body_;
  bool http11_ = true;
  bool keep_alive_ = true;
  bool expects_continue_ = false;
  int failure_status_ = 0;
  std::string failure_message_;
};

/// One response. Interim (1xx) responses before it are skipped. Not thread-safe.
class ResponseParser {
 public:
  /// to_head: the request was HEAD, so there is no body whatever the fields say.
  ResponseParser(MessageLimits limits, bool to_head) : limits_(limits), to_head_(to_head) {}

  void Append(std::string_view bytes) { buffer_.Append(bytes); }
  ParseState Advance();
  /// The peer closed. Returns kDone where that ends the body, kFailed else.
  ParseState Eof();
  /// Bytes behind the response: a server that speaks out of turn.
  size_t buffered_bytes() const { return buffer_.rest().size(); }

  /// Status and fields, from kBody on.
  const Response& head() const { return head_; }
  bool keep_alive() const { return keep_alive_; }
  /// Content decoded since the last call.
  std::string TakeBody() { return std::exchange(content_, {}); }

  /// Requires state kFailed.
  const Error& failure() const { return *failure_; }

 private:
  ParseState Fail(Error error);
  ParseState ParseHead(size_t size_bytes);
  ParseState ChooseFraming();

  const MessageLimits limits_;
  const bool to_head_;
  HeadBuffer buffer_;
  ParseState state_ = ParseState::kIdle;
  Response head_;
  std::string content_;
  BodyDecoder body_;
  bool keep_alive_ = true;
  std::optional<Error> failure_;
};

}  // namespace halfmoon::net
