// SPDX-License-Identifier: Apache-2.0
// Internal to net: takes the framing off a message body, byte stream in, content out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::net {

/// Decodes one body: of a known length, chunked, or until the peer closes. Chunk extensions and
/// trailer fields are checked for shape, bounded (4 KiB a line, 16 KiB of trailers) and dropped:
/// nothing here acts on them, and a trailer must not change what the head said. Not thread-safe.
///
/// Beast's own chunk reader is not used because it asserts on a last chunk that arrives in pieces
/// ("0\r\n", then "\r"), which a peer controls.
class BodyDecoder {
 public:
  /// No body.
  BodyDecoder() = default;
  static BodyDecoder WithLength(uint64_t length_bytes);
  static BodyDecoder Chunked(uint64_t max_bytes);
  static BodyDecoder UntilClose(uint64_t max_bytes);

  /// Consumes bytes up to the end of the body, appends content to `out`, returns how many were
  /// consumed (all of them, unless the body ended). Errors: kCorrupt for broken framing,
  /// kResourceExhausted over the bound.
  Result<size_t> Feed(std::string_view bytes, std::string* out);

  bool done() const { return state_ == State::kDone; }
  /// The peer closed: true where that is how this body ends.
  bool FinishAtEof();

 private:
  enum class State {
    kLength,
    kUntilClose,
    kChunkSize,
    kChunkExtension,
    kChunkSizeLf,
    kChunkData,
    kChunkDataCr,
    kChunkDataLf,
    kTrailerLineStart,
    kTrailerLine,
    kTrailerLineLf,
    kLastLf,
    kDone,
  };

  Status FeedFraming(char c);
  Status EndChunkSize();

  State state_ = State::kDone;
  uint64_t remaining_ = 0;    // Of the body (kLength) or the chunk (kChunkData).
  uint64_t budget_ = 0;       // Content still allowed.
  uint64_t max_bytes_ = 0;    // For the message.
  int size_digits_ = 0;       // Seen of this chunk size.
  size_t line_bytes_ = 0;     // Of this extension or trailer line.
  size_t trailer_bytes_ = 0;  // Of all trailer lines.
};

}  // namespace halfmoon::net
