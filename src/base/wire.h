// SPDX-License-Identifier: Apache-2.0
// Fields of binary messages: little-endian numbers, and lengths in front of what varies.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace halfmoon {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

/// Appends fields.
class WireWriter {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void PutText(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    bytes_.append(text);
  }
  template <typename T>
    requires std::is_arithmetic_v<T>
  void PutList(const std::vector<T>& list) {
    Put(static_cast<uint32_t>(list.size()));
    bytes_.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(T));
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Takes fields of a message that may be anything. After the first field that is not there, all
/// further ones are zero and empty, and Finish says so; so a reader of a message needs one check.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
    requires std::is_arithmetic_v<T>
  T Get() {
    T value{};
    const std::string_view taken = TakeBytes(sizeof(T));
    if constexpr (std::is_same_v<T, bool>) {
      value = !taken.empty() && taken[0] != 0;
    } else if (!taken.empty()) {
      std::memcpy(&value, taken.data(), sizeof(T));
    }
    return value;
  }
  /// One of the enumerators 0 .. `last`.
  template <typename T>
    requires std::is_enum_v<T>
  T GetEnum(T last) {
    using Number = std::underlying_type_t<T>;
    const auto value = Get<Number>();
    if (value < Number{0} || value > static_cast<Number>(last)) failed_ = true;
    return failed_ ? T{} : static_cast<T>(value);
  }
  std::string GetText() { return std::string(TakeBytes(Get<uint32_t>())); }
  /// Memory grows only with what is there.
  template <typename T>
    requires std::is_arithmetic_v<T>
  std::vector<T> GetList() {
    const auto count = Get<uint32_t>();
    const std::string_view taken = TakeBytes(size_t{count} * sizeof(T));
    std::vector<T> list(taken.size() / sizeof(T));
    if (!list.empty()) std::memcpy(list.data(), taken.data(), taken.size());
    return list;
  }
  /// How many elements of at least `least_bytes` each follow; 0 and failed where there cannot be as
  /// many.
  size_t GetCount(size_t least_bytes) {
    const auto count = Get<uint32_t>();
    if (size_t{count} * least_bytes > bytes_.size()) failed_ = true;
    return failed_ ? 0 : count;
  }

  void Fail() { failed_ = true; }
  bool ok() const { return !failed_; }
  /// Errors: kCorrupt, naming `what`, where a field was missing or wrong or bytes are left.
  Status Finish(std::string_view what) const {
    if (!failed_ && bytes_.empty()) return {};
    return Error(ErrorCode::kCorrupt,
                 std::string(what) +
                     (failed_ ? ": a field is cut short or wrong" : ": bytes after the end"));
  }

 private:
  std::string_view TakeBytes(size_t count) {
    if (failed_ || count > bytes_.size()) {
      failed_ = true;
      return {};
    }
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

  std::string_view bytes_;
  bool failed_ = false;
};

}  // namespace halfmoon
