// SPDX-License-Identifier: Apache-2.0
// Which path is which endpoint, and the answers that need no endpoint: 401, 404, 405, CORS.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/http.h"
#include "serve/api_error.h"

namespace halfmoon::serve {

enum class Endpoint {
  kNone,
  kLanding,
  kHealth,
  kReady,
  kMetrics,
  kVersion,
  kModels,
  kModel,
  kChat,
  kCompletion,
  kTokenize,
  kDetokenize,
};

struct RouteMatch {
  Endpoint endpoint = Endpoint::kNone;  ///< kNone: unknown path, or `allow` is the method to use
  std::string_view label = "other";     ///< for metrics: never what a client made up
  std::string_view allow;               ///< set where the path is known
  std::string rest;                     ///< kModel: the name
  bool open = false;                    ///< answered without an API key
};

RouteMatch FindRoute(std::string_view method, std::string_view path);

/// 404, or 405 with Allow.
net::Response NoRouteResponse(const net::Request& request, const RouteMatch& match);
/// 401 with WWW-Authenticate.
net::Response Unauthorized();
/// An error that comes from HTTP itself: type and code follow from the status.
ApiError HttpError(int status, std::string message);
/// Whether the body says it is JSON. A browser may send other types to any site without asking, so
/// they are refused rather than guessed at. No Content-Type at all passes.
bool IsJson(const net::Headers& headers);

/// Which browser pages may read answers. Immutable.
class Cors {
 public:
  /// origins: as browsers send them ("https://example.org"), or "*". None: CORS is off.
  explicit Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {}

  bool IsPreflight(const net::Request& request) const;
  net::Response PreflightResponse(const net::Request& request) const;
  /// Fields for the answer to a request with these headers; empty where its origin is not let in.
  net::Headers AnswerHeaders(const net::Headers& request) const;

 private:
  std::vector<std::string> origins_;
};

}  // namespace halfmoon::serve
