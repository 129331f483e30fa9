// SPDX-License-Identifier: Apache-2.0
// The parts of config.json that families share, read with bounds so that a malformed file ends in
// an error naming the field.
#pragma once

#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "model/description.h"

namespace halfmoon::model {

/// A whole number in [low, high]. Errors name the field, the range and the value.
Result<int64_t> ReadInt(const json::object& config, std::string_view key, int64_t low,
                        int64_t high);
/// As ReadInt; `fallback` where the field is absent or null.
Result<int64_t> ReadIntOr(const json::object& config, std::string_view key, int64_t low,
                          int64_t high, int64_t fallback);
Result<bool> ReadBoolOr(const json::object& config, std::string_view key, bool fallback);

/// A finite number in (0, 1e6]; `fallback` where the field is absent or null.
Result<double> ReadScaleOr(const json::object& config, std::string_view key, double fallback);

/// hidden_size, vocab_size, intermediate_size, num_hidden_layers, rms_norm_eps,
/// tie_word_embeddings, max_position_embeddings, eos_token_id (one or a list). All layers come out
/// dense with full attention; attention is left to be filled in.
Result<ModelDescription> ReadCommon(const json::object& config, std::string_view family);

/// Grouped-query attention: num_attention_heads, num_key_value_heads, head_dim, attention_bias,
/// RoPE.
Result<AttentionDescription> ReadGroupedAttention(const json::object& config, int64_t hidden_dim);

/// ReadCommon with ReadGroupedAttention.
Result<ModelDescription> ReadCommonWithGroupedAttention(const json::object& config,
                                                        std::string_view family);

/// Multi-head latent attention: num_attention_heads, q_lora_rank, kv_lora_rank, qk_nope_head_dim,
/// qk_rope_head_dim, v_head_dim, attention_bias, RoPE.
Result<AttentionDescription> ReadLatentAttention(const json::object& config);

/// n_group and topk_group for moe->num_experts experts, and that the choice fits into them.
Status ReadExpertGroups(const json::object& config, MoeDescription* moe);

/// Makes layers from `first_k_dense_replace` on mixtures of experts.
Status ReadDensePrefix(const json::object& config, ModelDescription* model);

/// num_nextn_predict_layers, at most 1.
Result<int> ReadMtpLayers(const json::object& config);

/// Errors where the string field `key` is present and is not `expected`.
Status ExpectString(const json::object& config, std::string_view key, std::string_view expected);

/// rope_theta + rope_scaling (older files) or rope_parameters (newer). Errors: kUnsupported naming
/// an unknown rope type.
Result<RopeDescription> ReadRope(const json::object& config, int head_dim);

}  // namespace halfmoon::model
