// SPDX-License-Identifier: Apache-2.0
// Internal to net: the bytes of response heads and chunks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "net/http.h"

namespace halfmoon::net {

/// How the reader of a response finds its end.
enum class Framing {
  kNone,        ///< No body and no length field (204, 304).
  kLength,      ///< Content-Length.
  kChunked,     ///< Transfer-Encoding: chunked.
  kUntilClose,  ///< The connection closes (streams to HTTP/1.0).
};

struct ResponseHead {
  int status = 200;
  Framing framing = Framing::kLength;
  uint64_t content_length = 0;  ///< For kLength.
  bool http11_client = true;
  bool keep_alive = true;
};

/// Appends status line, fields and empty line. Of `headers`, the fields that framing decides are
/// left out, and so is whatever could not be written as one line (a handler may have copied it from
/// a client).
void AppendHead(const ResponseHead& head, const Headers& headers, std::string_view server_name,
                std::string* out);

/// Appends one chunk of a chunked body. Nothing for an empty one, which would end the body.
void AppendChunk(std::string_view content, std::string* out);

/// True for codes whose responses have no body.
bool StatusForbidsBody(int status);

/// "HTTP/1.1 100 Continue" with its empty line.
inline constexpr std::string_view kContinueResponse = "HTTP/1.1 100 Continue\r\n\r\n";
/// What ends a chunked body.
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace halfmoon::net
