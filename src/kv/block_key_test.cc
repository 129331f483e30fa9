// SPDX-License-Identifier: Apache-2.0
#include "kv/block_key.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

namespace halfmoon::kv {
namespace {

KeyScope Scope() {
  return {.model_fingerprint = "model-a",
          .kv_format_version = 1,
          .block_size = 4,
          .tenant_salt = "tenant"};
}

// The example of docs/formats/block_key.md: keys are names that other nodes and files use, so they
// must not change unnoticed.
TEST(BlockKey, DocumentedExample_HasThatValue) {
  const BlockKey seed = SeedKey(Scope());
  EXPECT_EQ(seed.ToHex(), "b0214f457693f669ef6d88f8eeb325a8");
  EXPECT_EQ(NextKey(seed, std::array<int32_t, 4>{1, 2, 3, 4}).ToHex(),
            "61263e6557ae2ce7d99dab2613346439");
}

TEST(SeedKey, AnyPartOfScopeDiffers_KeyDiffers) {
  std::set<BlockKey> keys = {SeedKey(Scope())};
  KeyScope scope = Scope();
  scope.model_fingerprint = "model-b";
  keys.insert(SeedKey(scope));
  scope = Scope();
  scope.kv_format_version = 2;
  keys.insert(SeedKey(scope));
  scope = Scope();
  scope.block_size = 8;
  keys.insert(SeedKey(scope));
  scope = Scope();
  scope.tenant_salt = "";
  keys.insert(SeedKey(scope));
  // The border between fingerprint and salt is part of the key.
  scope.model_fingerprint = "model-atenant";
  keys.insert(SeedKey(scope));
  EXPECT_EQ(keys.size(), 6u);
}

TEST(NextKey, OtherTokensOrOtherPrefix_KeyDiffers) {
  const BlockKey seed = SeedKey(Scope());
  const std::array<int32_t, 4> a = {1, 2, 3, 4};
  const std::array<int32_t, 4> b = {1, 2, 4, 3};
  EXPECT_EQ(NextKey(seed, a), NextKey(seed, a));
  EXPECT_NE(NextKey(seed, a), NextKey(seed, b));
  EXPECT_NE(NextKey(NextKey(seed, a), b), NextKey(NextKey(seed, b), b));
}

}  // namespace
}  // namespace halfmoon::kv
