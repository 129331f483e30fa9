// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <cmath>

namespace halfmoon::json {
namespace {

Error WrongKind(std::string_view key, std::string_view expected, const value& found) {
  return Error(ErrorCode::kInvalidArgument, "field '" + std::string(key) + "': expected " +
                                                std::string(expected) + ", found " +
                                                std::string(KindName(found)));
}

Error Missing(std::string_view key) {
  return Error(ErrorCode::kInvalidArgument, "field '" + std::string(key) + "' is missing");
}

/// The field, or nullptr where it is absent or null.
const value* Lookup(const object& o, std::string_view key) {
  const value* v = o.if_contains(key);
  return v == nullptr || v->is_null() ? nullptr : v;
}

template <typename T>
Result<T> Require(Result<std::optional<T>> found, std::string_view key) {
  if (!found.ok()) return found.error();
  if (!found->has_value()) return Missing(key);
  return std::move(**found);
}

}  // namespace

Result<value> Parse(std::string_view text) {
  boost::json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::json::parser parser({}, options);
  boost::json::error_code error;
  const size_t consumed = parser.write_some(text, error);
  if (!error && consumed < text.size()) {
    // write_some stops after a complete value; only white space may follow.
    const size_t rest = text.find_first_not_of(" \t\r\n", consumed);
    if (rest != std::string_view::npos) {
      return Error(ErrorCode::kInvalidArgument,
                   "not JSON: unexpected text after the document at byte " + std::to_string(rest));
    }
  }
  if (error) {
    return Error(ErrorCode::kInvalidArgument,
                 "not JSON: " + error.message() + " at byte " + std::to_string(consumed));
  }
  return parser.release();
}

Result<object> ParseObject(std::string_view text) {
  HM_ASSIGN(value document, Parse(text));
  if (!document.is_object()) {
    return Error(ErrorCode::kInvalidArgument,
                 "expected a JSON object, found " + std::string(KindName(document)));
  }
  return std::move(document.as_object());
}

std::string Serialize(const value& v) { return boost::json::serialize(v); }

std::string_view KindName(const value& v) {
  switch (v.kind()) {
    case boost::json::kind::null:
      return "null";
    case boost::json::kind::bool_:
      return "boolean";
    case boost::json::kind::int64:
    case boost::json::kind::uint64:
    case boost::json::kind::double_:
      return "number";
    case boost::json::kind::string:
      return "string";
    case boost::json::kind::array:
      return "array";
    case boost::json::kind::object:
      return "object";
  }
  return "unknown";
}

Result<std::optional<int64_t>> FindInt(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return std::optional<int64_t>();
  if (v->is_int64()) return std::optional<int64_t>(v->as_int64());
  if (v->is_uint64() && v->as_uint64() <= static_cast<uint64_t>(INT64_MAX)) {
    return std::optional<int64_t>(static_cast<int64_t>(v->as_uint64()));
  }
  // Writers of configs put 1e6 or 10000.0 where a whole number is meant.
  if (v->is_double()) {
    const double d = v->as_double();
    if (std::trunc(d) == d && std::abs(d) < 9.0e15) {
      return std::optional<int64_t>(static_cast<int64_t>(d));
    }
  }
  return WrongKind(key, "a whole number", *v);
}

Result<std::optional<double>> FindDouble(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return std::optional<double>();
  if (!v->is_number()) return WrongKind(key, "a number", *v);
  return std::optional<double>(v->to_number<double>());
}

Result<std::optional<bool>> FindBool(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return std::optional<bool>();
  if (!v->is_bool()) return WrongKind(key, "a boolean", *v);
  return std::optional<bool>(v->as_bool());
}

Result<std::optional<std::string>> FindString(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return std::optional<std::string>();
  if (!v->is_string()) return WrongKind(key, "a string", *v);
  return std::optional<std::string>(std::string(v->as_string()));
}

Result<const object*> FindObject(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return static_cast<const object*>(nullptr);
  if (!v->is_object()) return WrongKind(key, "an object", *v);
  return &v->as_object();
}

Result<const array*> FindArray(const object& o, std::string_view key) {
  const value* v = Lookup(o, key);
  if (v == nullptr) return static_cast<const array*>(nullptr);
  if (!v->is_array()) return WrongKind(key, "an array", *v);
  return &v->as_array();
}

Result<int64_t> RequireInt(const object& o, std::string_view key) {
  return Require(FindInt(o, key), key);
}

Result<double> RequireDouble(const object& o, std::string_view key) {
  return Require(FindDouble(o, key), key);
}

Result<std::string> RequireString(const object& o, std::string_view key) {
  return Require(FindString(o, key), key);
}

}  // namespace halfmoon::json
