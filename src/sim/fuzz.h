// SPDX-License-Identifier: Apache-2.0
// Random clusters, arrivals and failures, and what must hold in all of them.
#pragma once

#include <cstdint>
#include <string>

#include "sim/cost_model.h"
#include "sim/simulator.h"
#include "sim/trace.h"

namespace halfmoon::sim {

/// A small cluster and what happens to it.
struct FuzzCase {
  SimOptions options;
  CostModel model;
  Trace trace;
};

/// The case of a seed: nodes of all roles, some of them slow links or little memory, prompts that
/// share blocks, bursts, nodes that fail and come back, every policy.
FuzzCase MakeFuzzCase(uint64_t seed);

/// The first thing that did not hold (Simulator::violation); empty when all did. Two runs of a case
/// that differ are a violation too.
std::string RunFuzzCase(const FuzzCase& fuzz_case);

/// Leaves out requests and failures as long as something still does not hold.
FuzzCase Shrink(FuzzCase fuzz_case);

/// What a case is, in a few lines.
std::string Describe(const FuzzCase& fuzz_case);

}  // namespace halfmoon::sim
