// SPDX-License-Identifier: Apache-2.0
// net: HTTP/1.1 server and client, server-sent events and timers over Asio and Beast.
// It knows nothing of models or of the API spoken over it. Asio, Beast and OpenSSL types stay
// inside this folder: http.h, http_server.h, http_client.h, sse.h and timer.h are what other areas
// include. Threads: a server owns a few IO threads (HttpServerOptions::io_threads) that never
// compute; a client has none of its own.
//
// This file: requests, responses and headers as plain values. No type here is thread-safe.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace halfmoon::net {

/// ASCII comparison without case, as HTTP compares names and tokens.
bool EqualsIgnoreCase(std::string_view a, std::string_view b);

/// Header fields in the order of arrival; names compare without case, a name may occur more than
/// once.
class Headers {
 public:
  struct Field {
    std::string name;
    std::string value;
  };

  Headers() = default;
  Headers(std::initializer_list<Field> fields) : fields_(fields) {}

  void Add(std::string name, std::string value);
  /// Replaces every field of that name by one.
  void Set(std::string_view name, std::string value);
  void Remove(std::string_view name);

  /// The first value of `name`. The view lives as long as these headers stay unchanged.
  std::optional<std::string_view> Find(std::string_view name) const;
  size_t Count(std::string_view name) const;
  /// True where the comma-separated lists of all fields `name` hold `token` ("Connection",
  /// "close").
  bool HasToken(std::string_view name, std::string_view token) const;

  size_t size() const { return fields_.size(); }
  bool empty() const { return fields_.empty(); }
  auto begin() const { return fields_.begin(); }
  auto end() const { return fields_.end(); }

 private:
  std::vector<Field> fields_;
};

/// True where `name` is a token and `value` free of control characters: safe to write into a
/// message head.
bool IsValidHeader(std::string_view name, std::string_view value);

/// What a client sent, complete and checked.
struct Request {
  std::string method;  ///< As sent, for example "GET". Methods are case-sensitive.
  std::string target;  ///< As sent.
  /// Percent-decoded, begins with '/' ("*" for the target of OPTIONS *). Dot segments are left as
  /// they are: who maps paths to files has to refuse them.
  std::string path;
  std::vector<std::pair<std::string, std::string>> query;  ///< Decoded, in order.
  Headers headers;
  std::string body;  ///< Chunked coding already removed.
  std::string peer;  ///< "127.0.0.1:51234" or "[::1]:51234".

  /// The first query parameter of that name. The view lives as long as `query` stays unchanged.
  std::optional<std::string_view> QueryValue(std::string_view name) const;
};

/// A whole answer. Content-Length, Transfer-Encoding, Connection and Date are the server's to
/// write; of these only "Connection: close" is taken from `headers`. In answers that a client
/// received, all fields are there.
struct Response {
  int status = 200;
  Headers headers;
  std::string body;
};

Response TextResponse(int status, std::string body);
/// body: one serialised JSON document.
Response JsonResponse(int status, std::string body);

/// "Not Found" for 404; "Unknown" for codes without a registered phrase.
std::string_view ReasonPhrase(int status);

/// Decodes %XX; '+' becomes a space if `plus_is_space` (query strings). Errors: kInvalidArgument on
/// a broken escape or a NUL.
Result<std::string> PercentDecode(std::string_view text, bool plus_is_space = false);
/// Encodes everything but letters, digits and "-._~".
std::string PercentEncode(std::string_view text);

/// Splits an origin-form ("/a?b=c"), absolute-form ("http://host/a") or asterisk-form target. Fills
/// path and query, and for the absolute form `authority`. Errors: kInvalidArgument.
struct ParsedTarget {
  std::string path;
  std::vector<std::pair<std::string, std::string>> query;
  std::string authority;
};
Result<ParsedTarget> ParseTarget(std::string_view target);

}  // namespace halfmoon::net
