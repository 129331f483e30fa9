// SPDX-License-Identifier: Apache-2.0
// DeepSeek V3, V3.1, R1 (models.md section 4), V3.2 with sparse attention (section 5), and Kimi K2,
// which is the same architecture with other sizes (section 6).
#include "model/arch/registry.h"
#include "model/config_reader.h"

namespace halfmoon::model {
namespace {

Result<ModelDescription> DescribeLatentMoe(const json::object& config, std::string_view family) {
  HM_ASSIGN(ModelDescription model, ReadCommon(config, family));
  HM_ASSIGN(model.attention, ReadLatentAttention(config));

  MoeDescription& moe = model.moe;
  HM_ASSIGN(const int64_t num_experts, ReadInt(config, "n_routed_experts", 1, 65536));
  moe.num_experts = static_cast<int>(num_experts);
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "num_experts_per_tok", 1, num_experts));
  moe.top_k = static_cast<int>(top_k);
  HM_ASSIGN(const int64_t expert_dim, ReadInt(config, "moe_intermediate_size", 1, 1 << 20));
  moe.expert_dim = static_cast<int>(expert_dim);
  HM_ASSIGN(const int64_t shared, ReadIntOr(config, "n_shared_experts", 0, 1024, 0));
  moe.shared_dim = static_cast<int>(shared * expert_dim);
  HM_TRY(ExpectString(config, "scoring_func", "sigmoid"));
  HM_TRY(ExpectString(config, "topk_method", "noaux_tc"));
  moe.score = ExpertScore::kSigmoid;
  moe.choice_bias = true;
  HM_TRY(ReadExpertGroups(config, &moe));
  HM_ASSIGN(moe.normalise_weights, ReadBoolOr(config, "norm_topk_prob", true));
  moe.norm_epsilon = 1e-20f;
  HM_ASSIGN(const double scale, ReadScaleOr(config, "routed_scaling_factor", 1.0));
  moe.weight_scale = static_cast<float>(scale);

  HM_ASSIGN(const int64_t frequency, ReadIntOr(config, "moe_layer_freq", 1, 1024, 1));
  if (frequency != 1) {
    return Error(ErrorCode::kUnsupported, "moe_layer_freq " + std::to_string(frequency) +
                                              ": only 1, experts in every layer, is known");
  }
  HM_TRY(ReadDensePrefix(config, &model));
  HM_ASSIGN(model.num_mtp_layers, ReadMtpLayers(config));
  return model;
}

}  // namespace

Result<ModelDescription> DescribeDeepseekV3(const json::object& config) {
  return DescribeLatentMoe(config, "deepseek_v3");
}

Result<ModelDescription> DescribeKimiK2(const json::object& config) {
  return DescribeLatentMoe(config, "kimi_k2");
}

Result<ModelDescription> DescribeDeepseekV32(const json::object& config) {
  HM_ASSIGN(ModelDescription model, DescribeLatentMoe(config, "deepseek_v32"));
  AttentionDescription& attention = model.attention;
  HM_ASSIGN(const int64_t heads, ReadInt(config, "index_n_heads", 1, 4096));
  HM_ASSIGN(const int64_t head_dim,
            ReadInt(config, "index_head_dim", attention.mla.rope_dim, 1024));
  HM_ASSIGN(const int64_t top_k, ReadInt(config, "index_topk", 1, 1 << 20));
  attention.indexer = {.num_heads = static_cast<int>(heads),
                       .head_dim = static_cast<int>(head_dim),
                       .top_k = static_cast<int>(top_k)};
  if (attention.mla.q_rank == 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "q_lora_rank: the indexer's queries come from the query latent, which this model "
                 "does not have");
  }
  return model;
}

}  // namespace halfmoon::model
