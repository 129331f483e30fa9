// SPDX-License-Identifier: Apache-2.0
// What simulations found, for people and for programs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "sim/metrics.h"
#include "sim/simulator.h"

namespace halfmoon::sim {

/// One simulation.
struct Run {
  std::string label;  ///< what is different about it
  SimOptions options;
  SimResult result;
  Summary summary;
};

/// A line for each run.
std::string FormatTable(std::span<const Run> runs);

/// {"costs": ..., "runs": [{"label", "options", "summary", "load"}]}
json::object ReportJson(std::span<const Run> runs, const std::string& cost_model);

/// A page that needs nothing else: the table, and pictures of TTFT and TBT, of hits and of the load
/// over time.
std::string FormatHtml(std::span<const Run> runs, const std::string& title);

}  // namespace halfmoon::sim
