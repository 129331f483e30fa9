// SPDX-License-Identifier: Apache-2.0
// Typed access to GGUF metadata.
#include <charconv>
#include <cstring>
#include <utility>

#include "checkpoint/gguf.h"

namespace halfmoon::checkpoint {
namespace {

template <typename T>
T Load(std::span<const std::byte> bytes, size_t index = 0) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

Error WrongType(std::string_view key, std::string_view expected, const GgufValue& found) {
  return Error(ErrorCode::kCorrupt, "metadata '" + std::string(key) + "': expected " +
                                        std::string(expected) + ", found " +
                                        (found.is_array ? "an array of " : "") +
                                        std::string(GgufTypeName(found.type)));
}

Error Missing(std::string_view key) {
  return Error(ErrorCode::kCorrupt, "metadata '" + std::string(key) + "' is missing");
}

std::optional<int64_t> AsInt(const GgufValue& value) {
  if (value.is_array) return std::nullopt;
  switch (value.type) {
    case GgufType::kU8:
      return Load<uint8_t>(value.payload);
    case GgufType::kI8:
      return Load<int8_t>(value.payload);
    case GgufType::kU16:
      return Load<uint16_t>(value.payload);
    case GgufType::kI16:
      return Load<int16_t>(value.payload);
    case GgufType::kU32:
      return Load<uint32_t>(value.payload);
    case GgufType::kI32:
      return Load<int32_t>(value.payload);
    case GgufType::kU64: {
      const auto wide = Load<uint64_t>(value.payload);
      if (wide > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(wide);
    }
    case GgufType::kI64:
      return Load<int64_t>(value.payload);
    default:
      return std::nullopt;
  }
}

/// The double that the shortest decimal spelling of `value` names: 1e-05f becomes 1e-05, as the
/// config it was made from had it, and not 9.99999974737875e-06.
double ShortestDouble(float value) {
  char text[32];
  const auto written = std::to_chars(text, text + sizeof(text), value);
  double wide = value;
  std::from_chars(text, written.ptr, wide);
  return wide;
}

template <typename T>
Result<T> Require(Result<std::optional<T>> found, std::string_view key) {
  if (!found.ok()) return found.error();
  if (!found->has_value()) return Missing(key);
  return std::move(**found);
}

/// Strings of a payload whose lengths were checked when it was parsed.
template <typename Visit>
void ForEachString(const GgufValue& value, const Visit& visit) {
  const char* next = reinterpret_cast<const char*>(value.payload.data());
  for (uint64_t i = 0; i < value.count; ++i) {
    uint64_t length = 0;
    std::memcpy(&length, next, sizeof(length));
    next += sizeof(length);
    visit(std::string_view(next, static_cast<size_t>(length)));
    next += length;
  }
}

}  // namespace

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

Result<std::optional<int64_t>> GgufMetadata::FindInt(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> number = AsInt(*value);
  if (!number.has_value()) return WrongType(key, "an integer below 2^63", *value);
  return number;
}

Result<std::optional<double>> GgufMetadata::FindDouble(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  if (const auto whole = AsInt(*value); whole.has_value()) {
    return std::optional<double>(static_cast<double>(*whole));
  }
  if (!value->is_array && value->type == GgufType::kF32) {
    return std::optional<double>(ShortestDouble(Load<float>(value->payload)));
  }
  if (!value->is_array && value->type == GgufType::kF64) {
    return std::optional<double>(Load<double>(value->payload));
  }
  return WrongType(key, "a number", *value);
}

Result<std::optional<bool>> GgufMetadata::FindBool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->is_array || value->type != GgufType::kBool) return WrongType(key, "BOOL", *value);
  return std::optional<bool>(value->payload[0] != std::byte{0});
}

Result<std::optional<std::string_view>> GgufMetadata::FindString(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (value->is_array || value->type != GgufType::kString) return WrongType(key, "STRING", *value);
  std::string_view text;
  ForEachString(*value, [&](std::string_view s) { text = s; });
  return std::optional<std::string_view>(text);
}

Result<std::optional<std::vector<std::string>>> GgufMetadata::FindStrings(
    std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<std::string>>();
  if (!value->is_array || value->type != GgufType::kString) {
    return WrongType(key, "an array of STRING", *value);
  }
  std::optional<std::vector<std::string>> strings(std::in_place);
  strings->reserve(static_cast<size_t>(value->count));
  ForEachString(*value, [&](std::string_view s) { strings->emplace_back(s); });
  return strings;
}

Result<std::optional<std::vector<float>>> GgufMetadata::FindFloats(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<float>>();
  if (!value->is_array || value->type != GgufType::kF32) {
    return WrongType(key, "an array of F32", *value);
  }
  std::optional<std::vector<float>> floats(std::in_place, static_cast<size_t>(value->count));
  if (!floats->empty()) std::memcpy(floats->data(), value->payload.data(), value->payload.size());
  return floats;
}

Result<std::optional<std::vector<int32_t>>> GgufMetadata::FindInts(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<int32_t>>();
  if (!value->is_array || (value->type != GgufType::kI32 && value->type != GgufType::kU32)) {
    return WrongType(key, "an array of I32", *value);
  }
  std::optional<std::vector<int32_t>> ints(std::in_place, static_cast<size_t>(value->count));
  if (!ints->empty()) std::memcpy(ints->data(), value->payload.data(), value->payload.size());
  return ints;
}

Result<int64_t> GgufMetadata::RequireInt(std::string_view key) const {
  return Require(FindInt(key), key);
}

Result<double> GgufMetadata::RequireDouble(std::string_view key) const {
  return Require(FindDouble(key), key);
}

Result<std::string_view> GgufMetadata::RequireString(std::string_view key) const {
  return Require(FindString(key), key);
}

}  // namespace halfmoon::checkpoint
