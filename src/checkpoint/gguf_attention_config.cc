// SPDX-License-Identifier: Apache-2.0
// attention.* metadata > the attention keys of config.json.
#include <cmath>
#include <utility>

#include "checkpoint/gguf_family.h"

namespace halfmoon::checkpoint {
namespace {

/// The factor of which int(head_dim * factor) is `rotary_dim`.
double PartialFactor(int64_t rotary_dim, int64_t head_dim) {
  double factor = static_cast<double>(rotary_dim) / static_cast<double>(head_dim);
  if (static_cast<int64_t>(static_cast<double>(head_dim) * factor) < rotary_dim) {
    factor = std::nextafter(factor, 2.0);
  }
  return factor;
}

}  // namespace

Status AddGroupedAttention(const GgufKeys& keys, const GgufFamily& family, int64_t hidden_size,
                           json::object* config) {
  HM_ASSIGN(const int64_t num_heads, keys.RequireCount("attention.head_count"));
  HM_ASSIGN(const auto num_kv_heads, keys.FindCount("attention.head_count_kv"));
  HM_ASSIGN(const auto key_length, keys.FindCount("attention.key_length"));
  HM_ASSIGN(const auto value_length, keys.FindCount("attention.value_length"));
  if (!key_length.has_value() && hidden_size % num_heads != 0) {
    return keys.Bad("attention.head_count", std::to_string(num_heads) +
                                                ", which does not divide the embedding length " +
                                                std::to_string(hidden_size));
  }
  const int64_t head_dim = key_length.value_or(hidden_size / num_heads);
  HM_ASSIGN(const auto stored_rotary_dim, keys.FindCount("rope.dimension_count"));
  const int64_t rotary_dim = stored_rotary_dim.value_or(head_dim);
  const bool rotary_fits = family.partial_rope ? rotary_dim <= head_dim : rotary_dim == head_dim;
  if (value_length.value_or(head_dim) != head_dim || !rotary_fits) {
    return Error(ErrorCode::kUnsupported,
                 "heads of " + std::to_string(head_dim) + " with values of " +
                     std::to_string(value_length.value_or(head_dim)) + " and rotary dimensions " +
                     std::to_string(rotary_dim) + "; they have to be equal");
  }
  (*config)["num_attention_heads"] = num_heads;
  (*config)["num_key_value_heads"] = num_kv_heads.value_or(num_heads);
  (*config)["head_dim"] = head_dim;
  if (family.model_type == "minimax_m2") {
    (*config)["rotary_dim"] = rotary_dim;
    (*config)["qk_norm_type"] = "per_layer";
  } else if (family.partial_rope) {
    (*config)["partial_rotary_factor"] = PartialFactor(rotary_dim, head_dim);
  }
  if (family.partial_rope) {
    (*config)["use_qk_norm"] = keys.FindTensor("blk.0.attn_q_norm.weight") != nullptr;
  }
  if (family.attention == GgufAttention::kFused) {
    (*config)["use_qkv_bias"] = keys.FindTensor("blk.0.attn_qkv.bias") != nullptr;
    (*config)["use_bias"] = keys.FindTensor("blk.0.attn_output.bias") != nullptr;
  } else {
    (*config)["attention_bias"] = keys.FindTensor("blk.0.attn_q.bias") != nullptr;
  }
  if (family.model_type == "llama") {
    (*config)["mlp_bias"] = keys.FindTensor("blk.0.ffn_gate.bias") != nullptr;
  }
  HM_ASSIGN(const auto window, keys.FindInt("attention.sliding_window"));
  if (window.value_or(0) > 0) (*config)["sliding_window"] = *window;
  return {};
}

Status AddLatentAttention(const GgufKeys& keys, const GgufFamily& family, json::object* config) {
  HM_ASSIGN(const int64_t num_heads, keys.RequireCount("attention.head_count"));
  HM_ASSIGN(const int64_t q_rank, keys.CountOrZero("attention.q_lora_rank"));
  HM_ASSIGN(const int64_t latent_dim, keys.RequireCount("attention.kv_lora_rank"));
  HM_ASSIGN(const int64_t rope_dim, keys.RequireCount("rope.dimension_count"));
  // Newer files give the sizes of the heads after decompression keys of their own, and use the old
  // ones for what is cached.
  HM_ASSIGN(const auto decompressed, keys.FindCount("attention.key_length_mla"));
  const std::string_view suffix = decompressed.has_value() ? "_mla" : "";
  const std::string key_name = "attention.key_length" + std::string(suffix);
  HM_ASSIGN(const int64_t key_dim, keys.RequireCount(key_name));
  HM_ASSIGN(const int64_t value_dim,
            keys.RequireCount("attention.value_length" + std::string(suffix)));
  if (key_dim <= rope_dim) {
    return keys.Bad(key_name, std::to_string(key_dim) + ", expected more than the " +
                                  std::to_string(rope_dim) + " rotary dimensions");
  }
  (*config)["num_attention_heads"] = num_heads;
  (*config)["num_key_value_heads"] = num_heads;
  (*config)["q_lora_rank"] = q_rank > 0 ? json::value(q_rank) : json::value(nullptr);
  (*config)["kv_lora_rank"] = latent_dim;
  (*config)["qk_nope_head_dim"] = key_dim - rope_dim;
  (*config)["qk_rope_head_dim"] = rope_dim;
  (*config)["v_head_dim"] = value_dim;
  (*config)["attention_bias"] = keys.FindTensor("blk.0.attn_kv_a_mqa.bias") != nullptr;
  if (family.model_type != "deepseek_v32") {
    return keys.RefuseIfSet("attention.indexer.head_count");
  }
  HM_ASSIGN((*config)["index_n_heads"], keys.RequireCount("attention.indexer.head_count"));
  HM_ASSIGN((*config)["index_head_dim"], keys.RequireCount("attention.indexer.key_length"));
  HM_ASSIGN((*config)["index_topk"], keys.RequireCount("attention.indexer.top_k"));
  return {};
}

}  // namespace halfmoon::checkpoint
