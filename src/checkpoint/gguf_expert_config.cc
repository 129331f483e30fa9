// SPDX-License-Identifier: Apache-2.0
// expert_* metadata > the mixture keys of config.json.
#include <cmath>
#include <string>
#include <utility>

#include "checkpoint/gguf_family.h"

namespace halfmoon::checkpoint {
namespace {

constexpr int64_t kMaxExperts = 65536;

std::string LayerTensor(int64_t layer, std::string_view name) {
  return "blk." + std::to_string(layer) + "." + std::string(name);
}

Status ExpectGating(const GgufKeys& keys, const GgufFamily& family, bool has_choice_bias) {
  constexpr int64_t kSoftmax = 1, kSigmoid = 2;
  HM_ASSIGN(const auto gating, keys.FindInt("expert_gating_func"));
  const std::string found = std::to_string(gating.value_or(0));
  if (family.routing != GgufRouting::kSigmoid) {
    if (gating.value_or(0) == 0 || *gating == kSoftmax) return {};
    return keys.Unsupported("expert_gating_func", found, "only softmax (1)");
  }
  if (gating.value_or(0) == kSigmoid) return {};
  // Absent, it means softmax in files of DeepSeek V2, which has no bias for the choice.
  if (gating.value_or(0) == 0 && (family.gguf != "deepseek2" || has_choice_bias)) return {};
  return keys.Unsupported("expert_gating_func", found + " (DeepSeek V2's routing)",
                          "only sigmoid (2)");
}

/// Groups of experts: {count, kept}.
Result<std::pair<int64_t, int64_t>> ExpertGroups(const GgufKeys& keys, int64_t num_experts,
                                                 int64_t hidden_size) {
  HM_ASSIGN(int64_t groups, keys.CountOrZero("expert_group_count", num_experts));
  HM_ASSIGN(int64_t kept, keys.CountOrZero("expert_group_used_count", num_experts));
  if (groups == 0) {
    // Files from before the keys existed. Of those with 256 experts and this width, DeepSeek V3 and
    // R1, it is known what they leave out.
    const bool deepseek_v3 = num_experts == 256 && hidden_size == 7168;
    groups = deepseek_v3 ? 8 : 1;
    kept = deepseek_v3 ? 4 : 1;
  }
  if (kept == 0) kept = groups;
  return std::pair(groups, kept);
}

Status AddSoftmaxExperts(const GgufKeys& keys, const GgufFamily& family, int64_t num_experts,
                         json::object* config) {
  if (family.block_sparse) {
    (*config)["num_local_experts"] = num_experts;
    return {};
  }
  (*config)["num_experts"] = num_experts;
  HM_ASSIGN(auto width, keys.FindCount("expert_feed_forward_length"));
  if (!width.has_value()) {
    const GgufTensor* stacked = keys.FindTensor("blk.0.ffn_gate_exps.weight");
    if (stacked == nullptr || stacked->view.shape.rank() != 3) {
      return Error(ErrorCode::kCorrupt,
                   "metadata '" + keys.Name("expert_feed_forward_length") + "' is missing");
    }
    width = stacked->view.shape[1];
  }
  (*config)["moe_intermediate_size"] = *width;
  // Readers of this architecture normalise unless told otherwise; the published models all do.
  HM_ASSIGN(const auto normalise, keys.FindBool("expert_weights_norm"));
  (*config)["norm_topk_prob"] = normalise.value_or(true);
  (*config)["decoder_sparse_step"] = 1;
  (*config)["mlp_only_layers"] = json::array();
  return {};
}

/// Ling spells its keys differently, and may give shared experts a width of their own.
Status AddLingExperts(const GgufKeys& keys, int64_t num_experts, int64_t num_shared,
                      int64_t first_sparse, bool has_choice_bias, json::object* config) {
  (*config)["num_experts"] = num_experts;
  (*config)["num_shared_experts"] = num_shared;
  (*config)["score_function"] = "sigmoid";
  (*config)["moe_router_enable_expert_bias"] = has_choice_bias;
  // expert_shared_feed_forward_length is the width of one in some files and of all in others; the
  // tensor says which.
  const GgufTensor* shared = keys.FindTensor(LayerTensor(first_sparse, "ffn_up_shexp.weight"));
  if (num_shared > 0 && shared != nullptr && shared->view.shape.rank() == 2) {
    if (shared->view.shape[0] % num_shared != 0) {
      return Error(ErrorCode::kCorrupt, "tensor '" + std::string(shared->name) +
                                            "': " + std::to_string(shared->view.shape[0]) +
                                            " rows are not those of " + std::to_string(num_shared) +
                                            " shared experts");
    }
    (*config)["moe_shared_expert_intermediate_size"] = shared->view.shape[0] / num_shared;
  }
  return {};
}

Status AddDeepseekExperts(const GgufKeys& keys, const GgufFamily& family, int64_t num_experts,
                          int64_t num_layers, json::object* config) {
  HM_ASSIGN(const int64_t first_sparse, keys.CountOrZero("leading_dense_block_count", num_layers));
  const bool has_choice_bias =
      keys.FindTensor(LayerTensor(first_sparse, "exp_probs_b.bias")) != nullptr;
  HM_TRY(ExpectGating(keys, family, has_choice_bias));
  (*config)["first_k_dense_replace"] = first_sparse;
  HM_ASSIGN((*config)["moe_intermediate_size"], keys.RequireCount("expert_feed_forward_length"));
  HM_ASSIGN(const int64_t num_shared, keys.CountOrZero("expert_shared_count", kMaxExperts));
  HM_ASSIGN(const auto groups,
            ExpertGroups(keys, num_experts, config->at("hidden_size").as_int64()));
  (*config)["n_group"] = groups.first;
  (*config)["topk_group"] = groups.second;
  HM_ASSIGN(const auto normalise, keys.FindBool("expert_weights_norm"));
  (*config)["norm_topk_prob"] = normalise.value_or(false);
  HM_ASSIGN(const auto scale, keys.FindDouble("expert_weights_scale"));
  // 0 is how some writers spell that there is none.
  if (scale.value_or(0) != 0 && !(*scale > 0 && std::isfinite(*scale))) {
    return keys.Bad("expert_weights_scale", std::to_string(*scale) + ", expected a number above 0");
  }
  (*config)["routed_scaling_factor"] = scale.value_or(0) == 0 ? 1.0 : *scale;
  if (family.attention == GgufAttention::kFused) {
    return AddLingExperts(keys, num_experts, num_shared, first_sparse, has_choice_bias, config);
  }
  (*config)["n_routed_experts"] = num_experts;
  (*config)["n_shared_experts"] = num_shared;
  (*config)["scoring_func"] = "sigmoid";
  (*config)["topk_method"] = "noaux_tc";
  (*config)["moe_layer_freq"] = 1;
  return {};
}

}  // namespace

Status AddExperts(const GgufKeys& keys, const GgufFamily& family, int64_t num_layers,
                  json::object* config) {
  HM_ASSIGN(const int64_t num_experts, keys.RequireCount("expert_count", kMaxExperts));
  HM_ASSIGN(const int64_t top_k, keys.RequireCount("expert_used_count", num_experts));
  (*config)["num_experts_per_tok"] = top_k;
  if (family.deepseek_moe) {
    return AddDeepseekExperts(keys, family, num_experts, num_layers, config);
  }
  const bool has_choice_bias = keys.FindTensor("blk.0.exp_probs_b.bias") != nullptr;
  HM_TRY(ExpectGating(keys, family, has_choice_bias));
  if (family.routing == GgufRouting::kSoftmax) {
    return AddSoftmaxExperts(keys, family, num_experts, config);
  }
  (*config)["num_local_experts"] = num_experts;
  (*config)["scoring_func"] = "sigmoid";
  (*config)["use_routing_bias"] = has_choice_bias;
  // Every layer is a mixture, and what config.json calls the intermediate size is an expert's.
  HM_ASSIGN(const auto width, keys.FindCount("expert_feed_forward_length"));
  if (width.has_value()) (*config)["intermediate_size"] = *width;
  return {};
}

}  // namespace halfmoon::checkpoint
