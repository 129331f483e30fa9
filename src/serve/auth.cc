// SPDX-License-Identifier: Apache-2.0
#include "serve/auth.h"

#include <cstdint>
#include <optional>

namespace halfmoon::serve {
namespace {

/// Compares without a branch on the bytes, so that time does not tell how many of them are right.
bool EqualInConstantTime(std::string_view given, std::string_view key) {
  uint32_t difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = key.empty() ? '\0' : key[i % key.size()];
    difference |= static_cast<uint32_t>(static_cast<unsigned char>(given[i] ^ other));
  }
  return difference == 0;
}

}  // namespace

bool ApiKeys::Allow(const net::Headers& headers) const {
  if (keys_.empty()) return true;
  const std::optional<std::string_view> field = headers.Find("Authorization");
  constexpr std::string_view kScheme = "Bearer ";
  if (!field || field->size() < kScheme.size() ||
      !net::EqualsIgnoreCase(field->substr(0, kScheme.size()), kScheme)) {
    return false;
  }
  const std::string_view given = field->substr(kScheme.size());
  bool found = false;
  for (const std::string& key : keys_) found |= EqualInConstantTime(given, key);
  return found;
}

}  // namespace halfmoon::serve
