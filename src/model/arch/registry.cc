// SPDX-License-Identifier: Apache-2.0
#include "model/arch/registry.h"

#include <string>

namespace halfmoon::model {
namespace {

struct Family {
  std::string_view model_type;
  Result<ModelDescription> (*describe)(const json::object& config);
};

constexpr Family kFamilies[] = {
    {"llama", DescribeLlama},
    {"qwen3", DescribeQwen3},
    {"qwen3_moe", DescribeQwen3Moe},
    {"mixtral", DescribeMixtral},
    {"deepseek_v3", DescribeDeepseekV3},
    {"deepseek_v32", DescribeDeepseekV32},
    {"kimi_k2", DescribeKimiK2},
    {"minimax_m2", DescribeMinimaxM2},
    {"bailing_moe_v2", DescribeBailingMoeV2},
};

}  // namespace

Result<ModelDescription> Describe(const json::object& config) {
  HM_ASSIGN(const std::string model_type, json::RequireString(config, "model_type"));
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family.describe(config);
  }
  std::string known;
  for (const Family& family : kFamilies) {
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  }
  return Error(ErrorCode::kUnsupported,
               "model_type '" + model_type + "' is not supported; known: " + known +
                   ". If its parts are known, a description file makes it run (--describe)");
}

}  // namespace halfmoon::model
