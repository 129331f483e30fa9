// SPDX-License-Identifier: Apache-2.0
#include "engine/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace halfmoon::engine {
namespace {

// Philox4x32-10 of an all-zero key and counter begins 6627e8d5 e169c58d (known-answer vectors of
// the Random123 library).
TEST(UniformAt, KnownAnswer_MatchesPublishedVector) {
  EXPECT_EQ(UniformAt(0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
}

TEST(UniformAt, ManyPositionsAndSeeds_UniformAndDistinct) {
  std::array<int, 16> buckets{};
  std::set<double> values;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    for (uint64_t position = 0; position < 400; ++position) {
      const double u = UniformAt(seed, position);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      ++buckets[static_cast<size_t>(u * 16)];
      values.insert(u);
    }
  }
  EXPECT_EQ(values.size(), 16000u);
  // Expected 1000 each, deviation sqrt(1000 * 15 / 16) = 31; five of them.
  for (int count : buckets) EXPECT_NEAR(count, 1000, 155);
}

}  // namespace
}  // namespace halfmoon::engine
