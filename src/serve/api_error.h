// SPDX-License-Identifier: Apache-2.0
// A refusal as an OpenAI client understands it.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/result.h"

namespace halfmoon::serve {

/// HTTP status plus the fields of OpenAI's error object. Value type.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::optional<std::string> param;       ///< request field at fault
  std::optional<std::string> code;        ///< stable word for programs
  std::optional<int> retry_after_s = {};  ///< becomes the Retry-After header

  /// {"error": {"message", "type", "param", "code"}}
  json::object ToJson() const;
};

/// 400 that blames one field.
ApiError InvalidField(std::string param, std::string message);

/// 400 for a field that this server knows and cannot honour; ignoring it would change the answer.
ApiError UnsupportedField(std::string param, std::string message);

/// What a failed call of another area means to the client: kInvalidArgument and kUnsupported 400,
/// kNotFound 404, kResourceExhausted 429, kUnavailable 503, anything else 500.
ApiError FromError(const Error& error);

}  // namespace halfmoon::serve
