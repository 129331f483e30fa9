// SPDX-License-Identifier: Apache-2.0
// base: what every other area stands on: errors, checks, logging, clocks, files, threads, JSON
// access. It knows nothing of models or networks and starts no thread except those of a ThreadPool.
//
// Expected failures (corrupt file, bad field, peer gone) travel as Result<T>; our own bugs stop the
// process through HM_CHECK (check.h). Nothing a file, a client or a peer controls may reach
// HM_CHECK.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace halfmoon {

/// Why an operation failed. Few on purpose: each one is a different reaction of the caller.
enum class ErrorCode {
  kInvalidArgument,    ///< The caller's input is wrong; trying again changes nothing.
  kNotFound,           ///< The named thing does not exist.
  kCorrupt,            ///< Bytes from outside contradict their format.
  kUnsupported,        ///< Well-formed, but outside what this build can do.
  kResourceExhausted,  ///< A bound (queue, pages, memory) is reached; later may work.
  kUnavailable,        ///< Not ready or shutting down; later or elsewhere may work.
  kDeadlineExceeded,   ///< Ran out of time.
  kCancelled,          ///< The one who asked no longer wants it.
  kIo,                 ///< The operating system refused (message carries errno's text).
  kInternal,           ///< A bug caught at an edge.
};

std::string_view ErrorCodeName(ErrorCode code);

/// An expected failure: a code to react to and a message for a person. Value type.
class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }

  /// Returns this error with `context` in front ("file f: tensor x: ..."). Added on the way up.
  [[nodiscard]] Error WithContext(std::string_view context) const {
    return Error(code_, std::string(context) + ": " + message_);
  }

 private:
  ErrorCode code_;
  std::string message_;
};

/// Either a T or an Error. The value may be read only when ok().
template <typename T>
class [[nodiscard]] Result {
 public:
  // Implicit on purpose: `return value;` and `return Error(...)` are how functions end.
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  T& value() & {
    HM_CHECK(ok(), error_message());
    return std::get<0>(state_);
  }
  const T& value() const& {
    HM_CHECK(ok(), error_message());
    return std::get<0>(state_);
  }
  T&& value() && {
    HM_CHECK(ok(), error_message());
    return std::get<0>(std::move(state_));
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }

  const Error& error() const {
    HM_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }

  [[nodiscard]] Result WithContext(std::string_view context) && {
    if (ok()) return std::move(*this);
    return error().WithContext(context);
  }

 private:
  std::string error_message() const { return ok() ? "" : std::get<1>(state_).message(); }
  std::variant<T, Error> state_;
};

/// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  const Error& error() const {
    HM_CHECK(!ok(), "error() of an ok Status");
    return *error_;
  }
  [[nodiscard]] Result WithContext(std::string_view context) && {
    if (ok()) return {};
    return error_->WithContext(context);
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace halfmoon

#define HALFMOON_CONCAT_INNER(a, b) a##b
#define HALFMOON_CONCAT(a, b) HALFMOON_CONCAT_INNER(a, b)

/// Returns the error of `expression` (a Status or Result) to the caller, if it has one.
#define HM_TRY(expression)                         \
  do {                                             \
    auto hm_status = (expression);                 \
    if (!hm_status.ok()) return hm_status.error(); \
  } while (false)

/// HM_ASSIGN(auto x, F()): x takes the value, or the error goes to the caller.
#define HM_ASSIGN(declaration, expression) \
  HALFMOON_ASSIGN_INNER(HALFMOON_CONCAT(hm_result_, __LINE__), declaration, expression)
#define HALFMOON_ASSIGN_INNER(result, declaration, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return result.error();                     \
  declaration = std::move(result).value()
