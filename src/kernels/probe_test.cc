// SPDX-License-Identifier: Apache-2.0
#include "kernels/probe.h"

#include <gtest/gtest.h>

namespace halfmoon::kernels {
namespace {

TEST(MeasureLimits, EveryIsa_PlausibleRates) {
  ThreadPool pool(2);
  for (const Isa isa : AvailableIsas()) {
    const MachineLimits limits =
        MeasureLimits(Stream(pool, isa), {.memory_bytes = size_t{16} << 20, .repeats = 1});
    // From a tenth of what the slowest machine that we know does to far beyond the fastest.
    EXPECT_GT(limits.read_bytes_per_s, 1e8) << IsaName(isa);
    EXPECT_LT(limits.read_bytes_per_s, 1e13) << IsaName(isa);
    EXPECT_GT(limits.int8_ops_per_s, 1e7) << IsaName(isa);
    EXPECT_LT(limits.int8_ops_per_s, 1e14) << IsaName(isa);
    EXPECT_GT(limits.f32_flops_per_s, 1e7) << IsaName(isa);
    EXPECT_LT(limits.f32_flops_per_s, 1e14) << IsaName(isa);
    if (isa == Isa::kAvx512Bf16) {
      EXPECT_GT(limits.bf16_flops_per_s, 1e7);
      EXPECT_LT(limits.bf16_flops_per_s, 1e15);
    } else {
      EXPECT_EQ(limits.bf16_flops_per_s, 0.0) << IsaName(isa);
    }
  }
}

}  // namespace
}  // namespace halfmoon::kernels
