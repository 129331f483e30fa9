// SPDX-License-Identifier: Apache-2.0
// Qwen3 mixture of experts: models.md section 2. Attention as Qwen3, an FFN of routed experts in
// most layers.
#include <algorithm>

#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeQwen3Moe(const json::object& config) {
  HM_ASSIGN(ModelDescription model, DescribeQwen3(config));
  model.family = "qwen3_moe";
  // Unlike qwen3, the window holds for every layer once it is switched on: the reference does not
  // look at max_window_layers here.
  HM_ASSIGN(const bool use_window, ReadBoolOr(config, "use_sliding_window", false));
  if (use_window) {
    HM_ASSIGN(const int64_t window, ReadIntOr(config, "sliding_window", 1, INT32_MAX, 0));
    for (LayerDescription& layer : model.layers) layer.sliding_window = static_cast<int>(window);
  }
  HM_ASSIGN(const int64_t num_experts, ReadInt(config, "num_experts", 0, 65536));
  if (num_experts == 0) return model;
  model.moe.num_experts = static_cast<int>(num_experts);
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "num_experts_per_tok", 1, num_experts));
  model.moe.top_k = static_cast<int>(top_k);
  HM_ASSIGN(const int64_t expert_dim, ReadInt(config, "moe_intermediate_size", 1, 1 << 20));
  model.moe.expert_dim = static_cast<int>(expert_dim);
  HM_ASSIGN(model.moe.normalise_weights, ReadBoolOr(config, "norm_topk_prob", false));

  HM_ASSIGN(const int64_t step, ReadIntOr(config, "decoder_sparse_step", 1, 1024, 1));
  std::vector<int64_t> dense;
  HM_ASSIGN(const json::array* listed, json::FindArray(config, "mlp_only_layers"));
  if (listed != nullptr) {
    for (const json::value& layer : *listed) {
      if (!layer.is_int64()) {
        return Error(
            ErrorCode::kInvalidArgument,
            "field 'mlp_only_layers': expected whole numbers, found " + json::Serialize(layer));
      }
      dense.push_back(layer.as_int64());
    }
  }
  for (int i = 0; i < model.num_layers(); ++i) {
    const bool only_mlp = std::find(dense.begin(), dense.end(), i) != dense.end();
    if (!only_mlp && (i + 1) % step == 0) model.layers[static_cast<size_t>(i)].ffn = FfnKind::kMoe;
  }
  return model;
}

}  // namespace halfmoon::model
