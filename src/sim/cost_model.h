// SPDX-License-Identifier: Apache-2.0
// What a simulated node is, read from a data file (docs/formats/sim_costs.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cluster/node.h"

namespace halfmoon::sim {

struct CostModel {
  std::string name;
  std::string source;  ///< where the numbers come from
  cluster::NodeCosts costs;
  int32_t layers = 1;  ///< KV is streamed one by one
  int64_t kv_bytes_per_token = 0;
  int64_t kv_tokens = 0;  ///< that pages hold, for sequences that decode
  int32_t max_running = 0;
};

/// Errors: kInvalidArgument, naming the field.
Result<CostModel> ParseCostModel(std::string_view json);

/// The file of a model.
std::string FormatCostModel(const CostModel& model);

}  // namespace halfmoon::sim
