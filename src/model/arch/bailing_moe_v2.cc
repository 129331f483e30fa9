// SPDX-License-Identifier: Apache-2.0
// Ling 2.0 and Ring 2.0: models.md section 8. Grouped-query attention with fused q, k and v, head
// norms, partial RoPE; noaux_tc routing with groups and a shared expert.
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {

Result<ModelDescription> DescribeBailingMoeV2(const json::object& config) {
  HM_ASSIGN(ModelDescription model, ReadCommonWithGroupedAttention(config, "bailing_moe_v2"));
  AttentionDescription& attention = model.attention;
  HM_ASSIGN(attention.qkv_bias, ReadBoolOr(config, "use_qkv_bias", false));
  HM_ASSIGN(attention.output_bias, ReadBoolOr(config, "use_bias", false));
  HM_ASSIGN(const bool qk_norm, ReadBoolOr(config, "use_qk_norm", true));
  attention.qk_norm = qk_norm ? QkNorm::kPerHead : QkNorm::kNone;

  MoeDescription& moe = model.moe;
  HM_ASSIGN(const int64_t num_experts, ReadInt(config, "num_experts", 1, 65536));
  moe.num_experts = static_cast<int>(num_experts);
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "num_experts_per_tok", 1, num_experts));
  moe.top_k = static_cast<int>(top_k);
  HM_ASSIGN(const int64_t expert_dim, ReadInt(config, "moe_intermediate_size", 1, 1 << 20));
  moe.expert_dim = static_cast<int>(expert_dim);
  HM_ASSIGN(const int64_t shared, ReadIntOr(config, "num_shared_experts", 0, 1024, 0));
  HM_ASSIGN(const int64_t shared_dim,
            ReadIntOr(config, "moe_shared_expert_intermediate_size", 1, 1 << 20, expert_dim));
  moe.shared_dim = static_cast<int>(shared * shared_dim);
  HM_TRY(ExpectString(config, "score_function", "sigmoid"));
  moe.score = ExpertScore::kSigmoid;
  HM_ASSIGN(moe.choice_bias, ReadBoolOr(config, "moe_router_enable_expert_bias", true));
  HM_TRY(ReadExpertGroups(config, &moe));
  HM_ASSIGN(moe.normalise_weights, ReadBoolOr(config, "norm_topk_prob", true));
  moe.norm_epsilon = 1e-20f;
  HM_ASSIGN(const double scale, ReadScaleOr(config, "routed_scaling_factor", 1.0));
  moe.weight_scale = static_cast<float>(scale);
  HM_TRY(ReadDensePrefix(config, &model));
  HM_ASSIGN(model.num_mtp_layers, ReadMtpLayers(config));

  TensorNames& names = model.names;
  names.embed = "model.word_embeddings";
  names.qkv = "model.layers.{L}.attention.query_key_value";
  names.o = "model.layers.{L}.attention.dense";
  names.q_norm = "model.layers.{L}.attention.query_layernorm";
  names.k_norm = "model.layers.{L}.attention.key_layernorm";
  names.router_bias = "model.layers.{L}.mlp.gate.expert_bias";
  names.mtp_final_norm = "model.layers.{L}.final_layernorm";
  return model;
}

}  // namespace halfmoon::model
