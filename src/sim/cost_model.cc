// SPDX-License-Identifier: Apache-2.0
#include "sim/cost_model.h"

#include <cmath>

#include "base/json.h"

namespace halfmoon::sim {
namespace {

constexpr int64_t kVersion = 1;

Result<double> RequireAmount(const json::object& o, std::string_view key) {
  HM_ASSIGN(const double value, json::RequireDouble(o, key));
  if (!std::isfinite(value) || value < 0.0) {
    return Error(ErrorCode::kInvalidArgument, std::string(key) + ": expected 0 or above");
  }
  return value;
}

Result<int64_t> RequireCount(const json::object& o, std::string_view key, int64_t least,
                             int64_t most) {
  HM_ASSIGN(const int64_t value, json::RequireInt(o, key));
  if (value < least || value > most) {
    return Error(
        ErrorCode::kInvalidArgument,
        std::string(key) + ": expected " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

Result<const json::object*> RequireObject(const json::object& o, std::string_view key) {
  HM_ASSIGN(const json::object* found, json::FindObject(o, key));
  if (found == nullptr) return Error(ErrorCode::kInvalidArgument, std::string(key) + " is missing");
  return found;
}

}  // namespace

Result<CostModel> ParseCostModel(std::string_view text) {
  HM_ASSIGN(const json::object o, json::ParseObject(text));
  HM_ASSIGN(const int64_t version, json::RequireInt(o, "halfmoon_sim_costs"));
  if (version != kVersion) {
    return Error(ErrorCode::kUnsupported,
                 "halfmoon_sim_costs: version " + std::to_string(version) + ", not 1");
  }
  CostModel model;
  HM_ASSIGN(model.name, json::RequireString(o, "name"));
  HM_ASSIGN(model.source, json::RequireString(o, "source"));
  HM_ASSIGN(const json::object* prefill, RequireObject(o, "prefill"));
  HM_ASSIGN(model.costs.prefill.fixed_us, RequireAmount(*prefill, "fixed_us"));
  HM_ASSIGN(model.costs.prefill.token_us, RequireAmount(*prefill, "token_us"));
  HM_ASSIGN(model.costs.prefill.position_us, RequireAmount(*prefill, "position_us"));
  if (model.costs.prefill.token_us <= 0.0) {
    return Error(ErrorCode::kInvalidArgument, "prefill.token_us: expected above 0");
  }
  HM_ASSIGN(const json::object* decode, RequireObject(o, "decode"));
  HM_ASSIGN(model.costs.decode.fixed_us, RequireAmount(*decode, "fixed_us"));
  HM_ASSIGN(model.costs.decode.sequence_us, RequireAmount(*decode, "sequence_us"));
  HM_ASSIGN(model.costs.decode.kv_token_us, RequireAmount(*decode, "kv_token_us"));
  if (model.costs.decode.fixed_us < 1.0) {
    return Error(ErrorCode::kInvalidArgument, "decode.fixed_us: expected 1 or above");
  }
  HM_ASSIGN(model.costs.network_bytes_per_s, RequireAmount(o, "network_bytes_per_s"));
  HM_ASSIGN(model.costs.ssd_bytes_per_s, RequireAmount(o, "ssd_bytes_per_s"));
  HM_ASSIGN(const int64_t layers, RequireCount(o, "layers", 1, 10000));
  model.layers = static_cast<int32_t>(layers);
  HM_ASSIGN(model.kv_bytes_per_token, RequireCount(o, "kv_bytes_per_token", 1, 1 << 30));
  HM_ASSIGN(model.kv_tokens, RequireCount(o, "kv_tokens", 1, int64_t{1} << 40));
  HM_ASSIGN(const int64_t max_running, RequireCount(o, "max_running", 1, 1 << 20));
  model.max_running = static_cast<int32_t>(max_running);
  return model;
}

std::string FormatCostModel(const CostModel& model) {
  const cluster::NodeCosts& costs = model.costs;
  const json::object o{{"halfmoon_sim_costs", kVersion},
                       {"name", model.name},
                       {"source", model.source},
                       {"prefill",
                        {{"fixed_us", costs.prefill.fixed_us},
                         {"token_us", costs.prefill.token_us},
                         {"position_us", costs.prefill.position_us}}},
                       {"decode",
                        {{"fixed_us", costs.decode.fixed_us},
                         {"sequence_us", costs.decode.sequence_us},
                         {"kv_token_us", costs.decode.kv_token_us}}},
                       {"network_bytes_per_s", costs.network_bytes_per_s},
                       {"ssd_bytes_per_s", costs.ssd_bytes_per_s},
                       {"layers", model.layers},
                       {"kv_bytes_per_token", model.kv_bytes_per_token},
                       {"kv_tokens", model.kv_tokens},
                       {"max_running", model.max_running}};
  return json::Serialize(o) + "\n";
}

}  // namespace halfmoon::sim
