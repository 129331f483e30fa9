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

/// The case of a seed: nodes of all roles, slow links or little memory, prompts that share blocks,
/// bursts, every policy; nodes that fail or are cut off, which the conductor notices at once or
/// late, and come back with or without their blocks; reports that come late; and in half of the
/// cases every step planned by the scheduler over pages.
FuzzCase MakeFuzzCase(uint64_t seed);

/// The first thing that did not hold (Simulator::violation); empty when all did. Two runs of a case
/// that differ are a violation too.
std::string RunFuzzCase(const FuzzCase& fuzz_case);

/// Leaves out requests and failures, and makes options simpler, as long as something still does
/// not hold.
FuzzCase Shrink(FuzzCase fuzz_case);

/// What a case is, in a few lines.
std::string Describe(const FuzzCase& fuzz_case);

}  // namespace halfmoon::sim
