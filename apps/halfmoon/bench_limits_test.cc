// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_limits.h"

#include <gtest/gtest.h>

namespace halfmoon::app {
namespace {

TEST(LimitTokensPerSecond, ReadingOrComputing_TheLongerDecides) {
  const kernels::MachineLimits limits{
      .read_bytes_per_s = 100, .int8_ops_per_s = 1000, .f32_flops_per_s = 10};
  // Reads 2 s and computes 1 s.
  EXPECT_EQ(LimitTokensPerSecond({.tokens = 8, .read_bytes = 200, .int8_ops = 1000}, limits), 4);
  // Computes 1 s in int8 and then 3 s in float32.
  EXPECT_EQ(LimitTokensPerSecond(
                {.tokens = 8, .read_bytes = 200, .int8_ops = 1000, .f32_flops = 30}, limits),
            2);
  // And another 2 s in bfloat16.
  const kernels::MachineLimits with_bf16{.read_bytes_per_s = 100,
                                         .int8_ops_per_s = 1000,
                                         .f32_flops_per_s = 10,
                                         .bf16_flops_per_s = 20};
  EXPECT_EQ(LimitTokensPerSecond(
                {.tokens = 12, .int8_ops = 1000, .f32_flops = 30, .bf16_flops = 40}, with_bf16),
            2);
}

}  // namespace
}  // namespace halfmoon::app
