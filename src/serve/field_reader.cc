// SPDX-License-Identifier: Apache-2.0
#include "serve/field_reader.h"

#include <charconv>
#include <utility>

namespace halfmoon::serve {
namespace {

/// Shortest text of a bound: "2" rather than "2.000000".
std::string Number(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return std::string(text, end);
}

}  // namespace

FieldReader::FieldReader(const json::object& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {}

template <typename T>
std::optional<T> FieldReader::Take(std::string_view key, const Result<std::optional<T>>& found) {
  if (!ok()) return std::nullopt;
  if (!found.ok()) {
    FailField(key, prefix_.empty() ? found.error().message()
                                   : "in '" + Name(key) + "': " + found.error().message());
    return std::nullopt;
  }
  return found.value();
}

std::optional<bool> FieldReader::Bool(std::string_view key) {
  return Take(key, json::FindBool(object_, key));
}

std::optional<int64_t> FieldReader::Int(std::string_view key, int64_t low, int64_t high) {
  const std::optional<int64_t> value = Take(key, json::FindInt(object_, key));
  if (value && (*value < low || *value > high)) {
    FailField(key, "'" + Name(key) + "' has to be a whole number from " + std::to_string(low) +
                       " to " + std::to_string(high) + ", found " + std::to_string(*value));
    return std::nullopt;
  }
  return value;
}

std::optional<double> FieldReader::Double(std::string_view key, double low, double high) {
  const std::optional<double> value = Take(key, json::FindDouble(object_, key));
  // Written so that a NaN fails too.
  if (value && !(*value >= low && *value <= high)) {
    FailField(key, "'" + Name(key) + "' has to be from " + Number(low) + " to " + Number(high) +
                       ", found " + Number(*value));
    return std::nullopt;
  }
  return value;
}

std::optional<std::string> FieldReader::String(std::string_view key) {
  return Take(key, json::FindString(object_, key));
}

const json::object* FieldReader::Object(std::string_view key) {
  if (!ok()) return nullptr;
  Result<const json::object*> found = json::FindObject(object_, key);
  if (found.ok()) return *found;
  FailField(key, found.error().message());
  return nullptr;
}

const json::array* FieldReader::Array(std::string_view key) {
  if (!ok()) return nullptr;
  Result<const json::array*> found = json::FindArray(object_, key);
  if (found.ok()) return *found;
  FailField(key, found.error().message());
  return nullptr;
}

const json::value* FieldReader::Any(std::string_view key) {
  if (!ok()) return nullptr;
  const json::value* value = object_.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void FieldReader::RefuseUnless(std::string_view key, std::string_view neutral,
                               std::string_view why) {
  const json::value* value = Any(key);
  if (value == nullptr) return;
  if (!neutral.empty()) {
    const Result<json::value> wanted = json::Parse(neutral);
    if (wanted.ok() && *value == *wanted) return;
    // 0 and 0.0 are the same wish, though not the same JSON value.
    if (wanted.ok() && wanted->is_number() && value->is_number() &&
        value->to_number<double>() == wanted->to_number<double>()) {
      return;
    }
  }
  Fail(UnsupportedField(Name(key), "'" + Name(key) + "' is not supported: " + std::string(why)));
}

void FieldReader::Fail(ApiError error) {
  if (ok()) error_ = std::move(error);
}

void FieldReader::FailField(std::string_view key, std::string message) {
  Fail(InvalidField(Name(key), std::move(message)));
}

}  // namespace halfmoon::serve
