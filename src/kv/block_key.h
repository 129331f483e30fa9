// SPDX-License-Identifier: Apache-2.0
// kv: bookkeeping of KV blocks: block keys, page ids, reference counts, the prefix index. It never
// touches KV bytes, reads no clock and starts no thread; one thread (the engine's) uses it.
//
// A block key names `block_size` tokens together with everything before them, so equal keys mean
// equal KV bytes wherever they were computed. docs/formats/block_key.md fixes the bytes that are
// hashed.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/hash.h"

namespace halfmoon::kv {

/// Version of the key derivation itself, part of every key.
inline constexpr uint32_t kBlockKeyVersion = 1;

/// Global name of one KV block.
struct BlockKey {
  Hash128 hash;
  auto operator<=>(const BlockKey&) const = default;
  std::string ToHex() const { return hash.ToHex(); }
};

/// What else KV bytes depend on besides tokens, and who may share them.
struct KeyScope {
  std::string_view model_fingerprint;
  uint32_t kv_format_version = 0;
  uint32_t block_size = 0;
  std::string_view tenant_salt;  ///< requests with different salts share nothing; empty is common
};

/// The key in front of a sequence's first block.
BlockKey SeedKey(const KeyScope& scope);

/// The key of the block that holds `tokens` and follows the block named `previous`.
BlockKey NextKey(const BlockKey& previous, std::span<const int32_t> tokens);

}  // namespace halfmoon::kv

template <>
struct std::hash<halfmoon::kv::BlockKey> {
  size_t operator()(const halfmoon::kv::BlockKey& key) const noexcept { return key.hash.low; }
};
