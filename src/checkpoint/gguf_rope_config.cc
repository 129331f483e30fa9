// SPDX-License-Identifier: Apache-2.0
// rope.* metadata > rope_scaling.
#include <cmath>
#include <optional>
#include <utility>

#include "checkpoint/gguf_family.h"

namespace halfmoon::checkpoint {
namespace {

Status AddYarn(const GgufKeys& keys, const GgufFamily& family, bool is_kimi, double factor,
               json::object* scaling) {
  HM_ASSIGN(const int64_t original, keys.RequireCount("rope.scaling.original_context_length"));
  (*scaling)["original_max_position_embeddings"] = original;
  HM_ASSIGN(auto beta_fast, keys.FindPositive("rope.scaling.yarn_beta_fast"));
  HM_ASSIGN(const auto beta_slow, keys.FindPositive("rope.scaling.yarn_beta_slow"));
  // Files from before these keys were written leave out what every Kimi K2 was published with.
  if (is_kimi && !beta_fast.has_value()) beta_fast = 1.0;
  if (beta_fast.has_value()) (*scaling)["beta_fast"] = *beta_fast;
  if (beta_slow.has_value()) (*scaling)["beta_slow"] = *beta_slow;
  HM_ASSIGN(const auto extrapolation, keys.FindDouble("rope.scaling.yarn_ext_factor"));
  if (extrapolation.has_value() && *extrapolation != 1 && *extrapolation != -1) {
    return keys.Unsupported("rope.scaling.yarn_ext_factor", std::to_string(*extrapolation), "1");
  }
  if (family.attention == GgufAttention::kLatent) {
    // The converter multiplies mscale_all_dim by 0.1 and does not keep mscale, which equals it in
    // every published model of the family: readers rely on that, too.
    HM_ASSIGN(const auto log_multiplier, keys.FindDouble("rope.scaling.yarn_log_multiplier"));
    if (log_multiplier.value_or(0) != 0) {
      if (!(*log_multiplier > 0 && *log_multiplier < 1e3)) {
        return keys.Bad("rope.scaling.yarn_log_multiplier",
                        std::to_string(*log_multiplier) + ", expected a number from 0 to 1000");
      }
      // Seven digits are what 32 bits hold; the rest is the multiplication's.
      const double mscale = std::round(*log_multiplier * 1e7) / 1e6;
      (*scaling)["mscale"] = mscale;
      (*scaling)["mscale_all_dim"] = mscale;
      return {};
    }
  }
  HM_ASSIGN(auto attention_factor, keys.FindPositive("rope.scaling.attn_factor"));
  if (!attention_factor.has_value()) {
    HM_ASSIGN(attention_factor, keys.FindPositive("rope.scaling.yarn_attn_factor"));
  }
  if (attention_factor.has_value() && factor > 1) {
    // GGUF's factor multiplies YaRN's own; config.json's replaces it.
    (*scaling)["attention_factor"] = *attention_factor * (0.1 * std::log(factor) + 1.0);
  }
  return {};
}

}  // namespace

Result<json::value> RopeScaling(const GgufKeys& keys, const GgufFamily& family, bool is_kimi) {
  HM_ASSIGN(const auto type, keys.FindString("rope.scaling.type"));
  HM_ASSIGN(auto factor, keys.FindPositive("rope.scaling.factor"));
  HM_ASSIGN(const auto old_linear_factor, keys.FindPositive("rope.scale_linear"));
  const bool old_linear = !type.has_value() && old_linear_factor.value_or(1) != 1;
  if (old_linear) factor = old_linear_factor;
  const std::string_view kind = old_linear ? "linear" : type.value_or("none");
  if (kind == "none" || kind.empty()) return json::value(nullptr);
  if (kind != "linear" && kind != "yarn") {
    return keys.Unsupported("rope.scaling.type", "'" + std::string(kind) + "'",
                            "none, linear, yarn");
  }
  if (!factor.has_value()) {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + keys.Name("rope.scaling.factor") + "' is missing");
  }
  json::object scaling;
  scaling["rope_type"] = kind;
  scaling["factor"] = *factor;
  if (kind == "yarn") HM_TRY(AddYarn(keys, family, is_kimi, *factor, &scaling));
  return json::value(std::move(scaling));
}

}  // namespace halfmoon::checkpoint
