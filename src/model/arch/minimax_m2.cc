// SPDX-License-Identifier: Apache-2.0
// MiniMax M2: models.md section 7. Grouped-query attention with a norm over the whole query and key
// vectors, partial RoPE, every layer a mixture of experts with sigmoid scores and a choice bias.
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeMinimaxM2(const json::object& config) {
  HM_ASSIGN(ModelDescription model, ReadCommonWithGroupedAttention(config, "minimax_m2"));
  AttentionDescription& attention = model.attention;
  HM_ASSIGN(const bool qk_norm, ReadBoolOr(config, "use_qk_norm", true));
  HM_TRY(ExpectString(config, "qk_norm_type", "per_layer"));
  attention.qk_norm = qk_norm ? QkNorm::kWhole : QkNorm::kNone;
  HM_ASSIGN(const int64_t rotary_dim,
            ReadIntOr(config, "rotary_dim", 2, attention.head_dim, attention.rope.rotary_dim));
  if (rotary_dim % 2 != 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "rotary_dim: expected an even number, found " + std::to_string(rotary_dim));
  }
  attention.rope.rotary_dim = static_cast<int>(rotary_dim);
  HM_ASSIGN(const json::array* kinds, json::FindArray(config, "attn_type_list"));
  if (kinds != nullptr) {
    for (const json::value& kind : *kinds) {
      if (kind.is_int64() && kind.as_int64() == 1) continue;
      return Error(ErrorCode::kUnsupported,
                   "field 'attn_type_list': only 1, full attention, is known, found " +
                       json::Serialize(kind));
    }
  }

  MoeDescription& moe = model.moe;
  HM_ASSIGN(const int64_t num_experts, ReadInt(config, "num_local_experts", 1, 65536));
  moe.num_experts = static_cast<int>(num_experts);
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "num_experts_per_tok", 1, num_experts));
  moe.top_k = static_cast<int>(top_k);
  moe.expert_dim = static_cast<int>(model.ffn_dim);
  HM_TRY(ExpectString(config, "scoring_func", "sigmoid"));
  moe.score = ExpertScore::kSigmoid;
  HM_ASSIGN(moe.choice_bias, ReadBoolOr(config, "use_routing_bias", true));
  moe.normalise_weights = true;
  HM_ASSIGN(const int64_t shared, ReadIntOr(config, "shared_intermediate_size", 0, 1 << 20, 0));
  if (shared != 0) {
    return Error(ErrorCode::kUnsupported, "shared_intermediate_size " + std::to_string(shared) +
                                              ": a shared expert is not known for this family");
  }
  for (LayerDescription& layer : model.layers) layer.ffn = FfnKind::kMoe;
  TensorNames& names = model.names;
  names.router = "model.layers.{L}.block_sparse_moe.gate";
  names.router_bias = "model.layers.{L}.block_sparse_moe.e_score_correction_bias";
  names.expert_gate = "model.layers.{L}.block_sparse_moe.experts.{E}.w1";
  names.expert_up = "model.layers.{L}.block_sparse_moe.experts.{E}.w3";
  names.expert_down = "model.layers.{L}.block_sparse_moe.experts.{E}.w2";
  return model;
}

}  // namespace halfmoon::model
