// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_split.h"

#include <charconv>

namespace halfmoon::checkpoint {
namespace {

// More parts than any published model has.
constexpr int64_t kMaxParts = 99'999;

std::optional<int64_t> ParseNumber(std::string_view digits) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  if (digits.size() != 5 || !whole || number < 1 || number > kMaxParts) return std::nullopt;
  return number;
}

}  // namespace

std::string SplitNumber(int64_t number) {
  const std::string digits = std::to_string(number);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

std::string SplitName::PartName(int64_t index) const {
  return stem + "-" + SplitNumber(index + 1) + "-of-" + SplitNumber(count) + ".gguf";
}

std::optional<SplitName> ParseSplitName(std::string_view file_name) {
  constexpr std::string_view kEnd = ".gguf";
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kTail = 1 + 5 + kOf.size() + 5;  // "-00002-of-00005"
  if (!file_name.ends_with(kEnd)) return std::nullopt;
  file_name.remove_suffix(kEnd.size());
  if (file_name.size() <= kTail) return std::nullopt;
  const std::string_view tail = file_name.substr(file_name.size() - kTail);
  if (tail[0] != '-' || tail.substr(6, kOf.size()) != kOf) return std::nullopt;
  const auto number = ParseNumber(tail.substr(1, 5));
  const auto count = ParseNumber(tail.substr(6 + kOf.size()));
  if (!number || !count || *number > *count) return std::nullopt;
  return SplitName{.stem = std::string(file_name.substr(0, file_name.size() - kTail)),
                   .number = *number,
                   .count = *count};
}

}  // namespace halfmoon::checkpoint
