// SPDX-License-Identifier: Apache-2.0
// 128-bit content hashes (XXH3). Fast and well mixed, not a defence against someone who wants a
// collision; who may choose the input gets a salt that the other side does not know.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace halfmoon {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const Hash128&) const = default;
  /// 32 lowercase hexadecimal digits, high half first.
  std::string ToHex() const;
};

/// XXH3-128 of `bytes` seeded with `seed`.
Hash128 HashBytes(std::span<const std::byte> bytes, uint64_t seed = 0);

/// XXH3-64 of `bytes`: a checksum, where a name needs 128 bits.
uint64_t Checksum(std::span<const std::byte> bytes);

}  // namespace halfmoon

template <>
struct std::hash<halfmoon::Hash128> {
  size_t operator()(const halfmoon::Hash128& key) const noexcept { return key.low; }
};
