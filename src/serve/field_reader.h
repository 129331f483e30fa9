// SPDX-License-Identifier: Apache-2.0
// Typed, bounded reading of the fields of one JSON object, remembering the first complaint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "serve/api_error.h"

namespace halfmoon::serve {

/// Reads fields of `object`, which outlives the reader. An absent or null field gives nullopt.
/// After the first field that is wrong, every read gives nullopt and error() tells what was wrong,
/// so a parser reads all its fields in a row and looks once at the end. Not thread-safe.
class FieldReader {
 public:
  /// prefix: put before field names in errors, such as "stream_options.".
  explicit FieldReader(const json::object& object, std::string prefix = "");

  std::optional<bool> Bool(std::string_view key);
  /// Whole number in [low, high].
  std::optional<int64_t> Int(std::string_view key, int64_t low, int64_t high);
  /// Number in [low, high], both finite.
  std::optional<double> Double(std::string_view key, double low, double high);
  std::optional<std::string> String(std::string_view key);
  const json::object* Object(std::string_view key);  ///< nullptr where absent
  const json::array* Array(std::string_view key);    ///< nullptr where absent
  /// The field as it is; nullptr where absent or null.
  const json::value* Any(std::string_view key);

  /// Refuses with UnsupportedField unless the field is absent, null or serialises to `neutral`, the
  /// value that asks for nothing; an empty `neutral` allows only absence.
  void RefuseUnless(std::string_view key, std::string_view neutral, std::string_view why);

  void Fail(ApiError error);
  /// Fails with InvalidField for `key` of this object.
  void FailField(std::string_view key, std::string message);
  bool ok() const { return !error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  template <typename T>
  std::optional<T> Take(std::string_view key, const Result<std::optional<T>>& found);
  std::string Name(std::string_view key) const { return prefix_ + std::string(key); }

  const json::object& object_;
  const std::string prefix_;
  std::optional<ApiError> error_;
};

}  // namespace halfmoon::serve
