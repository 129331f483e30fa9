// SPDX-License-Identifier: Apache-2.0
// Server-sent events: formatting for servers, an incremental parser for clients and tests.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::net {

/// "data: ...\n\n"; each line of `data` (ended by LF, CR or CRLF) becomes a data line of its own.
std::string SseData(std::string_view data);

/// An event with a type and an id. Line breaks in `type` and `id` are dropped, empty ones left out.
std::string SseEvent(std::string_view type, std::string_view data, std::string_view id = {});

/// ": text\n\n": ignored by readers, so it serves as a heartbeat. Line breaks in `text` begin new
/// comments.
std::string SseComment(std::string_view text);

/// One event as a reader sees it.
struct SseMessage {
  std::string type = "message";
  std::string data;                 ///< Lines joined by LF.
  std::string id;                   ///< The last id seen on the stream.
  std::optional<int64_t> retry_ms;  ///< Where this event carried one.
};

/// Cuts a byte stream into events by the rules of the HTML standard (LF, CR and CRLF, leading byte
/// order mark, comments, unfinished events dropped). Not thread-safe.
class SseParser {
 public:
  using Callback = std::function<void(const SseMessage&)>;

  /// max_event_bytes bounds one line, and the data of one event.
  explicit SseParser(Callback on_message, size_t max_event_bytes = 16 << 20);

  /// Takes the next bytes and calls back for each event they complete. Errors: kResourceExhausted
  /// when an event is over the bound; the parser then stays in that error.
  Status Feed(std::string_view bytes);

 private:
  void EndLine();
  void Dispatch();

  Callback on_message_;
  size_t max_event_bytes_;
  std::string line_;
  std::string type_;
  std::string data_;
  std::string last_id_;
  std::optional<int64_t> retry_ms_;
  bool has_data_ = false;
  bool last_was_cr_ = false;
  bool first_line_ = true;
  bool failed_ = false;
};

}  // namespace halfmoon::net
