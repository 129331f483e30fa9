// SPDX-License-Identifier: Apache-2.0
// JSON from outside, read with bounds and with errors that name the field. Values are Boost.JSON's.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::json {

using boost::json::array;
using boost::json::object;
using boost::json::value;

/// Nesting that any honest document stays below; deeper input is refused rather than recursed into.
inline constexpr size_t kMaxDepth = 64;

/// Parses a whole document (no trailing bytes). Errors: kInvalidArgument with the byte offset.
Result<value> Parse(std::string_view text);

/// As Parse, but the document has to be an object.
Result<object> ParseObject(std::string_view text);

/// One line of JSON.
std::string Serialize(const value& v);

/// "null", "boolean", "number", "string", "array" or "object": for messages.
std::string_view KindName(const value& v);

/// Typed access to a field. Find* answer nullopt where the field is absent or null, and an error
/// naming the field, what was expected and what was found where it has another type or does not
/// fit.
Result<std::optional<int64_t>> FindInt(const object& o, std::string_view key);
Result<std::optional<double>> FindDouble(const object& o, std::string_view key);
Result<std::optional<bool>> FindBool(const object& o, std::string_view key);
Result<std::optional<std::string>> FindString(const object& o, std::string_view key);
Result<const object*> FindObject(const object& o, std::string_view key);  ///< nullptr where absent
Result<const array*> FindArray(const object& o, std::string_view key);    ///< nullptr where absent

/// As Find*, but absence is an error too.
Result<int64_t> RequireInt(const object& o, std::string_view key);
Result<double> RequireDouble(const object& o, std::string_view key);
Result<std::string> RequireString(const object& o, std::string_view key);

}  // namespace halfmoon::json
