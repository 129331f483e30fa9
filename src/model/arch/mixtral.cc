// SPDX-License-Identifier: Apache-2.0
// Mixtral: models.md section 3. Llama attention, every layer a mixture of experts with normalised
// top-k softmax.
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeMixtral(const json::object& config) {
  HM_ASSIGN(ModelDescription model, ReadCommonWithGroupedAttention(config, "mixtral"));
  HM_ASSIGN(const int64_t num_experts, ReadInt(config, "num_local_experts", 1, 65536));
  model.moe.num_experts = static_cast<int>(num_experts);
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "num_experts_per_tok", 1, num_experts));
  model.moe.top_k = static_cast<int>(top_k);
  model.moe.expert_dim = static_cast<int>(model.ffn_dim);
  model.moe.normalise_weights = true;
  HM_ASSIGN(const int64_t window, ReadIntOr(config, "sliding_window", 1, INT32_MAX, 0));
  for (LayerDescription& layer : model.layers) {
    layer.ffn = FfnKind::kMoe;
    layer.sliding_window = static_cast<int>(window);
  }
  TensorNames& names = model.names;
  names.router = "model.layers.{L}.block_sparse_moe.gate";
  names.expert_gate = "model.layers.{L}.block_sparse_moe.experts.{E}.w1";
  names.expert_up = "model.layers.{L}.block_sparse_moe.experts.{E}.w3";
  names.expert_down = "model.layers.{L}.block_sparse_moe.experts.{E}.w2";
  return model;
}

}  // namespace halfmoon::model
