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

TEST(FuzzCluster, RandomCases_LoseNothing) { RunSeeds(1, 300); }

// What the fuzzer is for: a bug somewhere is found within a few cases, and made small.
TEST(FuzzCluster, BugsMadeOnPurpose_AreFoundAndMadeSmall) {
  for (const Bug bug : {Bug::kLoseRequest, Bug::kLeakPage, Bug::kLoseSlot}) {
    bool found = false;
    for (uint64_t seed = 1; seed <= 60 && !found; ++seed) {
      FuzzCase fuzz_case = MakeFuzzCase(seed);
      fuzz_case.options.bug = bug;
      if (RunFuzzCase(fuzz_case).empty()) continue;
      found = true;
      const FuzzCase small = Shrink(fuzz_case);
      EXPECT_NE(RunFuzzCase(small), "");
      EXPECT_LE(small.trace.requests.size(), 2u) << Describe(small);
      EXPECT_LE(small.options.faults.size(), bug == Bug::kLoseRequest ? 1u : 0u) << Describe(small);
    }
    EXPECT_TRUE(found) << static_cast<int>(bug);
  }
}

TEST(FuzzClusterSlow, ManyRandomCases_LoseNothing) { RunSeeds(100'000, 20'000); }

}  // namespace
}  // namespace halfmoon::sim
