// SPDX-License-Identifier: Apache-2.0
#include "serve/api_error.h"

#include <utility>

namespace halfmoon::serve {

json::object ApiError::ToJson() const {
  json::object error;
  error["message"] = message;
  error["type"] = type;
  error["param"] = param ? json::value(*param) : json::value(nullptr);
  error["code"] = code ? json::value(*code) : json::value(nullptr);
  json::object document;
  document["error"] = std::move(error);
  return document;
}

ApiError InvalidField(std::string param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.param = std::move(param);
  error.code = "invalid_value";
  return error;
}

ApiError UnsupportedField(std::string param, std::string message) {
  ApiError error = InvalidField(std::move(param), std::move(message));
  error.code = "unsupported_parameter";
  return error;
}

ApiError FromError(const Error& error) {
  ApiError api;
  api.message = error.message();
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      api.code = "invalid_value";
      return api;
    case ErrorCode::kNotFound:
      api.status = 404;
      api.code = "not_found";
      return api;
    case ErrorCode::kResourceExhausted:
      api.status = 429;
      api.type = "rate_limit_error";
      api.code = "queue_full";
      return api;
    case ErrorCode::kUnavailable:
      api.status = 503;
      api.type = "server_error";
      api.code = "unavailable";
      return api;
    default:
      api.status = 500;
      api.type = "server_error";
      api.code = "internal_error";
      return api;
  }
}

}  // namespace halfmoon::serve
