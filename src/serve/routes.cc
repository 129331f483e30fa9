// SPDX-License-Identifier: Apache-2.0
#include "serve/routes.h"

#include <algorithm>
#include <optional>

#include "base/json.h"
#include "serve/exchange.h"

namespace halfmoon::serve {
namespace {

struct Route {
  std::string_view method;
  std::string_view path;
  Endpoint endpoint;
  bool open = false;
};

// Probes and scrapers carry no key; the landing page says nothing secret.
constexpr Route kRoutes[] = {
    {"GET", "/", Endpoint::kLanding, true},
    {"GET", "/health", Endpoint::kHealth, true},
    {"GET", "/ready", Endpoint::kReady, true},
    {"GET", "/metrics", Endpoint::kMetrics, true},
    {"GET", "/version", Endpoint::kVersion},
    {"GET", "/v1/models", Endpoint::kModels},
    {"POST", "/v1/chat/completions", Endpoint::kChat},
    {"POST", "/v1/completions", Endpoint::kCompletion},
    {"POST", "/tokenize", Endpoint::kTokenize},
    {"POST", "/detokenize", Endpoint::kDetokenize},
};
constexpr std::string_view kModelPrefix = "/v1/models/";

bool MethodFits(std::string_view method, std::string_view route_method) {
  return method == route_method || (method == "HEAD" && route_method == "GET");
}

std::string_view CodeOf(int status) {
  switch (status) {
    case 401:
      return "invalid_api_key";
    case 404:
      return "not_found";
    case 405:
      return "method_not_allowed";
    case 408:
      return "request_timeout";
    case 413:
      return "request_too_large";
    case 415:
      return "unsupported_media_type";
    case 431:
      return "headers_too_large";
    case 503:
      return "overloaded";
    default:
      return status >= 500 ? "internal_error" : "bad_request";
  }
}

}  // namespace

RouteMatch FindRoute(std::string_view method, std::string_view path) {
  RouteMatch match;
  for (const Route& route : kRoutes) {
    if (route.path != path) continue;
    match.label = route.path;
    match.allow = route.method;
    match.open = route.open;
    if (MethodFits(method, route.method)) match.endpoint = route.endpoint;
    return match;
  }
  if (path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size()) {
    match.label = "/v1/models/{id}";
    match.allow = "GET";
    match.rest = path.substr(kModelPrefix.size());
    if (MethodFits(method, "GET")) match.endpoint = Endpoint::kModel;
  }
  return match;
}

net::Response NoRouteResponse(const net::Request& request, const RouteMatch& match) {
  const std::string what = request.method + " " + request.path.substr(0, 200);
  if (match.allow.empty()) return ErrorResponse(HttpError(404, "nothing is served at " + what));
  net::Response response =
      ErrorResponse(HttpError(405, what + " is not allowed; use " + std::string(match.allow)));
  response.headers.Set("Allow", std::string(match.allow));
  return response;
}

net::Response Unauthorized() {
  ApiError error = HttpError(401, "a valid API key is needed: send 'Authorization: Bearer KEY'");
  net::Response response = ErrorResponse(error);
  response.headers.Set("WWW-Authenticate", "Bearer");
  return response;
}

ApiError HttpError(int status, std::string message) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  if (status >= 500) error.type = "server_error";
  error.code = CodeOf(status);
  return error;
}

bool IsJson(const net::Headers& headers) {
  const std::optional<std::string_view> field = headers.Find("Content-Type");
  if (!field) return true;
  std::string_view type = field->substr(0, field->find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  return net::EqualsIgnoreCase(type, "application/json");
}

bool Cors::IsPreflight(const net::Request& request) const {
  return !origins_.empty() && request.method == "OPTIONS" && request.headers.Find("Origin") &&
         request.headers.Find("Access-Control-Request-Method");
}

net::Response Cors::PreflightResponse(const net::Request& request) const {
  net::Response response;
  response.status = 204;
  if (AnswerHeaders(request.headers).empty()) return response;  // the browser then refuses
  response.headers.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  if (const auto wanted = request.headers.Find("Access-Control-Request-Headers")) {
    // Any field is harmless here: what counts is the origin, and the key where one is set.
    response.headers.Set("Access-Control-Allow-Headers", std::string(*wanted));
  }
  response.headers.Set("Access-Control-Max-Age", "600");
  return response;
}

net::Headers Cors::AnswerHeaders(const net::Headers& request) const {
  net::Headers headers;
  const std::optional<std::string_view> origin = request.Find("Origin");
  if (!origin || origins_.empty()) return headers;
  const bool any = std::ranges::find(origins_, "*") != origins_.end();
  if (!any && std::ranges::find(origins_, *origin) == origins_.end()) return headers;
  headers.Set("Access-Control-Allow-Origin", any ? "*" : std::string(*origin));
  if (!any) headers.Set("Vary", "Origin");
  headers.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  return headers;
}

}  // namespace halfmoon::serve
