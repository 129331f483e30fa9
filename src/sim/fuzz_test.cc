// SPDX-License-Identifier: Apache-2.0
#include "sim/fuzz.h"

#include <gtest/gtest.h>

namespace halfmoon::sim {
namespace {

void RunSeeds(uint64_t first, uint64_t count) {
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const FuzzCase fuzz_case = MakeFuzzCase(seed);
    const std::string violation = RunFuzzCase(fuzz_case);
    if (violation.empty()) continue;
    FAIL() << "seed " << seed << ": " << violation << "\n" << Describe(Shrink(fuzz_case));
  }
}

TEST(FuzzCluster, RandomCases_LoseNothing) { RunSeeds(1, 500); }

TEST(FuzzClusterSlow, ManyRandomCases_LoseNothing) { RunSeeds(100'000, 20'000); }

}  // namespace
}  // namespace halfmoon::sim
