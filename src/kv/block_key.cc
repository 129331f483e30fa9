// SPDX-License-Identifier: Apache-2.0
#include "kv/block_key.h"

#include <vector>

namespace halfmoon::kv {
namespace {

// Integers enter the hash as little-endian bytes, so that keys are equal on every machine.
void AppendU32(uint32_t value, std::vector<std::byte>* out) {
  for (int shift = 0; shift < 32; shift += 8)
    out->push_back(static_cast<std::byte>(value >> shift));
}

void AppendU64(uint64_t value, std::vector<std::byte>* out) {
  AppendU32(static_cast<uint32_t>(value), out);
  AppendU32(static_cast<uint32_t>(value >> 32), out);
}

// The length in front keeps ("ab", "c") apart from ("a", "bc").
void AppendString(std::string_view text, std::vector<std::byte>* out) {
  AppendU64(text.size(), out);
  for (char c : text) out->push_back(static_cast<std::byte>(c));
}

}  // namespace

BlockKey SeedKey(const KeyScope& scope) {
  std::vector<std::byte> bytes;
  for (char c : std::string_view("HMBLKKEY")) bytes.push_back(static_cast<std::byte>(c));
  AppendU32(kBlockKeyVersion, &bytes);
  AppendU32(scope.kv_format_version, &bytes);
  AppendU32(scope.block_size, &bytes);
  AppendString(scope.model_fingerprint, &bytes);
  AppendString(scope.tenant_salt, &bytes);
  return BlockKey{HashBytes(bytes)};
}

BlockKey NextKey(const BlockKey& previous, std::span<const int32_t> tokens) {
  // Reused, because this runs once a block of every prompt.
  thread_local std::vector<std::byte> bytes;
  bytes.clear();
  bytes.reserve(16 + 4 * tokens.size());
  AppendU64(previous.hash.high, &bytes);
  AppendU64(previous.hash.low, &bytes);
  for (int32_t token : tokens) AppendU32(static_cast<uint32_t>(token), &bytes);
  return BlockKey{HashBytes(bytes)};
}

}  // namespace halfmoon::kv
