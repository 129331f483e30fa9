// SPDX-License-Identifier: Apache-2.0
// Options of a simulation by name, as the command line and its sweeps give them.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "sim/simulator.h"

namespace halfmoon::sim {

/// An option that a sweep can vary, and what it means.
struct OptionName {
  std::string_view name;
  std::string_view help;
};
std::span<const OptionName> OptionNames();

/// Errors: kInvalidArgument, naming the option, the value and what would be right.
Status SetOption(std::string_view name, std::string_view value, SimOptions* options);

/// Values of some options: one run.
using Assignment = std::vector<std::pair<std::string, std::string>>;

/// Every combination of "rate=1,2" and "policy=local,global": the last varies fastest. One empty
/// assignment where there is nothing. Errors: kInvalidArgument; at most 10,000 runs.
Result<std::vector<Assignment>> ExpandSweeps(std::span<const std::string> sweeps);

/// Fails where the options contradict each other.
Status CheckOptions(const SimOptions& options);

}  // namespace halfmoon::sim
