// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {
namespace {

// Above every real model; keeps products of two such numbers within int64.
constexpr int64_t kMaxCount = INT32_MAX;
constexpr int64_t kMaxExperts = 65536;

struct Family {
  std::string_view model_type;
  std::string_view architecture;
};

/// Reads "<architecture>.<key>" with bounds.
class Reader {
 public:
  Reader(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  std::string Key(std::string_view key) const { return prefix_ + std::string(key); }

  /// A count in [1, high]. An array, one number a layer, passes where all are equal.
  Result<std::optional<int64_t>> FindCount(std::string_view key, int64_t high = kMaxCount) const {
    const std::string full = Key(key);
    std::optional<int64_t> count;
    const GgufValue* value = metadata_.Find(full);
    if (value != nullptr && value->is_array) {
      HM_ASSIGN(const auto per_layer, metadata_.FindInts(full));
      if (per_layer->empty()) return Bad(full, "an empty array");
      if (std::any_of(per_layer->begin(), per_layer->end(),
                      [&](int32_t n) { return n != per_layer->front(); })) {
        return Error(ErrorCode::kUnsupported, "metadata '" + full + "' differs between layers");
      }
      count = per_layer->front();
    } else {
      HM_ASSIGN(count, metadata_.FindInt(full));
    }
    if (count.has_value() && (*count < 1 || *count > high)) {
      return Bad(full, std::to_string(*count) + ", expected 1 to " + std::to_string(high));
    }
    return count;
  }

  Result<int64_t> RequireCount(std::string_view key, int64_t high = kMaxCount) const {
    HM_ASSIGN(const auto count, FindCount(key, high));
    if (!count.has_value()) {
      return Error(ErrorCode::kCorrupt, "metadata '" + Key(key) + "' is missing");
    }
    return *count;
  }

  /// A finite number above zero.
  Result<std::optional<double>> FindPositive(std::string_view key) const {
    HM_ASSIGN(const auto number, metadata_.FindDouble(Key(key)));
    if (number.has_value() && !(*number > 0 && std::isfinite(*number))) {
      return Bad(Key(key), std::to_string(*number) + ", expected a number above 0");
    }
    return number;
  }

  Result<std::optional<int64_t>> FindInt(std::string_view key) const {
    return metadata_.FindInt(Key(key));
  }
  Result<std::optional<double>> FindDouble(std::string_view key) const {
    return metadata_.FindDouble(Key(key));
  }
  Result<std::optional<bool>> FindBool(std::string_view key) const {
    return metadata_.FindBool(Key(key));
  }
  Result<std::optional<std::string_view>> FindString(std::string_view key) const {
    return metadata_.FindString(Key(key));
  }

  static Error Bad(std::string_view key, std::string_view found) {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + std::string(key) + "' is " + std::string(found));
  }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

const GgufTensor* FindTensor(const GgufFile& file, std::string_view name) {
  const auto found = std::find_if(file.tensors.begin(), file.tensors.end(),
                                  [&](const GgufTensor& t) { return t.name == name; });
  return found == file.tensors.end() ? nullptr : &*found;
}

Result<Family> FindFamily(std::string_view architecture, bool has_experts) {
  if (architecture == "llama" && has_experts) return Family{"mixtral", "MixtralForCausalLM"};
  if (architecture == "llama") return Family{"llama", "LlamaForCausalLM"};
  if (architecture == "qwen3") return Family{"qwen3", "Qwen3ForCausalLM"};
  if (architecture == "qwen3moe") return Family{"qwen3_moe", "Qwen3MoeForCausalLM"};
  return Error(ErrorCode::kUnsupported,
               "GGUF architecture '" + std::string(architecture) +
                   "' is not supported; supported are llama, qwen3, qwen3moe");
}

/// Keys that would change the result and that no block here reads: a model that sets one must not
/// pass as one that does not.
Status RefuseUnknownMathematics(const Reader& reader) {
  for (const std::string_view key :
       {"attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias",
        "attention.q_lora_rank", "attention.kv_lora_rank", "embedding_scale", "residual_scale",
        "logit_scale", "attn_logit_softcapping", "final_logit_softcapping", "expert_shared_count",
        "expert_group_count", "expert_weights_scale", "rope.scaling.alpha",
        "rope.scaling.yarn_log_multiplier"}) {
    HM_ASSIGN(const auto number, reader.FindDouble(key));
    const bool neutral = key == "expert_weights_scale" && number.value_or(1) == 1;
    if (number.value_or(0) != 0 && !neutral) {
      return Error(ErrorCode::kUnsupported,
                   "metadata '" + reader.Key(key) + "' is set, which is not supported");
    }
  }
  HM_ASSIGN(const auto gating, reader.FindInt("expert_gating_func"));
  constexpr int64_t kSoftmax = 1;
  if (gating.value_or(0) != 0 && *gating != kSoftmax) {
    return Error(ErrorCode::kUnsupported, "metadata '" + reader.Key("expert_gating_func") +
                                              "' is " + std::to_string(*gating) +
                                              ", only softmax (1) is supported");
  }
  return {};
}

Status AddAttention(const Reader& reader, const GgufFile& file, int64_t hidden_size,
                    json::object* config) {
  HM_ASSIGN(const int64_t num_heads, reader.RequireCount("attention.head_count"));
  HM_ASSIGN(const auto num_kv_heads, reader.FindCount("attention.head_count_kv"));
  HM_ASSIGN(const auto key_length, reader.FindCount("attention.key_length"));
  HM_ASSIGN(const auto value_length, reader.FindCount("attention.value_length"));
  HM_ASSIGN(const auto rotary_dim, reader.FindCount("rope.dimension_count"));
  if (!key_length.has_value() && hidden_size % num_heads != 0) {
    return Reader::Bad(reader.Key("attention.head_count"),
                       std::to_string(num_heads) + ", which does not divide the embedding length " +
                           std::to_string(hidden_size));
  }
  const int64_t head_dim = key_length.value_or(hidden_size / num_heads);
  if (value_length.value_or(head_dim) != head_dim || rotary_dim.value_or(head_dim) != head_dim) {
    return Error(ErrorCode::kUnsupported,
                 "heads of " + std::to_string(head_dim) + " with values of " +
                     std::to_string(value_length.value_or(head_dim)) + " and rotary dimensions " +
                     std::to_string(rotary_dim.value_or(head_dim)) + "; they have to be equal");
  }
  (*config)["num_attention_heads"] = num_heads;
  (*config)["num_key_value_heads"] = num_kv_heads.value_or(num_heads);
  (*config)["head_dim"] = head_dim;
  (*config)["attention_bias"] = FindTensor(file, "blk.0.attn_q.bias") != nullptr;
  HM_ASSIGN(const auto window, reader.FindInt("attention.sliding_window"));
  if (window.value_or(0) > 0) (*config)["sliding_window"] = *window;
  return {};
}

Result<json::value> RopeScaling(const Reader& reader) {
  HM_ASSIGN(const auto type, reader.FindString("rope.scaling.type"));
  HM_ASSIGN(auto factor, reader.FindPositive("rope.scaling.factor"));
  HM_ASSIGN(const auto old_linear_factor, reader.FindPositive("rope.scale_linear"));
  const bool old_linear = !type.has_value() && old_linear_factor.value_or(1) != 1;
  if (old_linear) factor = old_linear_factor;
  const std::string_view kind = old_linear ? "linear" : type.value_or("none");
  if (kind == "none" || kind.empty()) return json::value(nullptr);
  if (kind != "linear" && kind != "yarn") {
    return Error(ErrorCode::kUnsupported, "metadata '" + reader.Key("rope.scaling.type") +
                                              "' is '" + std::string(kind) +
                                              "'; supported are none, linear, yarn");
  }
  if (!factor.has_value()) {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + reader.Key("rope.scaling.factor") + "' is missing");
  }
  json::object scaling;
  scaling["rope_type"] = kind;
  scaling["factor"] = *factor;
  if (kind == "linear") return json::value(std::move(scaling));

  HM_ASSIGN(const int64_t original, reader.RequireCount("rope.scaling.original_context_length"));
  scaling["original_max_position_embeddings"] = original;
  HM_ASSIGN(const auto beta_fast, reader.FindPositive("rope.scaling.yarn_beta_fast"));
  HM_ASSIGN(const auto beta_slow, reader.FindPositive("rope.scaling.yarn_beta_slow"));
  if (beta_fast.has_value()) scaling["beta_fast"] = *beta_fast;
  if (beta_slow.has_value()) scaling["beta_slow"] = *beta_slow;
  HM_ASSIGN(auto attention_factor, reader.FindPositive("rope.scaling.attn_factor"));
  if (!attention_factor.has_value()) {
    HM_ASSIGN(attention_factor, reader.FindPositive("rope.scaling.yarn_attn_factor"));
  }
  if (attention_factor.has_value() && *factor > 1) {
    // GGUF's factor multiplies YaRN's own; config.json's replaces it.
    scaling["attention_factor"] = *attention_factor * (0.1 * std::log(*factor) + 1.0);
  }
  return json::value(std::move(scaling));
}

Status AddExperts(const Reader& reader, const GgufFile& file, std::string_view model_type,
                  json::object* config) {
  HM_ASSIGN(const int64_t num_experts, reader.RequireCount("expert_count", kMaxExperts));
  HM_ASSIGN(const int64_t top_k, reader.RequireCount("expert_used_count", num_experts));
  (*config)["num_experts_per_tok"] = top_k;
  if (model_type == "mixtral") {
    (*config)["num_local_experts"] = num_experts;
    return {};
  }
  (*config)["num_experts"] = num_experts;
  HM_ASSIGN(auto width, reader.FindCount("expert_feed_forward_length"));
  if (!width.has_value()) {
    const GgufTensor* stacked = FindTensor(file, "blk.0.ffn_gate_exps.weight");
    if (stacked == nullptr || stacked->view.shape.rank() != 3) {
      return Error(ErrorCode::kCorrupt,
                   "metadata '" + reader.Key("expert_feed_forward_length") + "' is missing");
    }
    width = stacked->view.shape[1];
  }
  (*config)["moe_intermediate_size"] = *width;
  // Readers of this architecture normalise unless told otherwise; the published models all do.
  HM_ASSIGN(const auto normalise, reader.FindBool("expert_weights_norm"));
  (*config)["norm_topk_prob"] = normalise.value_or(true);
  (*config)["decoder_sparse_step"] = 1;
  (*config)["mlp_only_layers"] = json::array();
  return {};
}

/// Rows of the embedding are the truth: padding rows have no token and no place in the metadata.
Result<int64_t> VocabularySize(const Reader& reader, const GgufFile& file) {
  const GgufTensor* embedding = FindTensor(file, "token_embd.weight");
  if (embedding != nullptr && embedding->view.shape.rank() == 2) return embedding->view.shape[0];
  return reader.RequireCount("vocab_size");
}

Status AddTokenIds(const GgufMetadata& metadata, json::object* config) {
  HM_ASSIGN(const auto bos, metadata.FindInt("tokenizer.ggml.bos_token_id"));
  HM_ASSIGN(const auto eos, metadata.FindInt("tokenizer.ggml.eos_token_id"));
  HM_ASSIGN(const auto end_of_turn, metadata.FindInt("tokenizer.ggml.eot_token_id"));
  if (bos.has_value()) (*config)["bos_token_id"] = *bos;
  if (eos.has_value()) (*config)["eos_token_id"] = *eos;
  if (eos.has_value() && end_of_turn.has_value() && *end_of_turn != *eos) {
    (*config)["eos_token_id"] = json::array{*eos, *end_of_turn};
  }
  return {};
}

}  // namespace

Result<json::object> GgufConfig(const GgufFile& file) {
  HM_ASSIGN(const std::string_view architecture,
            file.metadata.RequireString("general.architecture"));
  const Reader reader(file.metadata, architecture);
  HM_ASSIGN(const auto expert_count, reader.FindInt("expert_count"));
  const bool has_experts = expert_count.value_or(0) > 0;
  HM_ASSIGN(const Family family, FindFamily(architecture, has_experts));
  HM_TRY(RefuseUnknownMathematics(reader));

  json::object config;
  config["architectures"] = json::array{family.architecture};
  config["model_type"] = family.model_type;
  config["hidden_act"] = "silu";
  HM_ASSIGN(const int64_t hidden_size, reader.RequireCount("embedding_length"));
  config["hidden_size"] = hidden_size;
  HM_ASSIGN(const auto intermediate_size, reader.FindCount("feed_forward_length"));
  if (intermediate_size.has_value()) {
    config["intermediate_size"] = *intermediate_size;
  } else if (family.model_type != "qwen3_moe") {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + reader.Key("feed_forward_length") + "' is missing");
  }
  HM_ASSIGN(const int64_t num_layers, reader.RequireCount("block_count"));
  config["num_hidden_layers"] = num_layers;
  HM_ASSIGN(const int64_t context_length, reader.RequireCount("context_length"));
  config["max_position_embeddings"] = context_length;
  HM_ASSIGN(const auto eps, reader.FindPositive("attention.layer_norm_rms_epsilon"));
  if (!eps.has_value()) {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + reader.Key("attention.layer_norm_rms_epsilon") + "' is missing");
  }
  config["rms_norm_eps"] = *eps;
  HM_TRY(AddAttention(reader, file, hidden_size, &config));
  HM_ASSIGN(const auto theta, reader.FindPositive("rope.freq_base"));
  config["rope_theta"] = theta.value_or(10000.0);
  HM_ASSIGN(config["rope_scaling"], RopeScaling(reader));
  if (has_experts) HM_TRY(AddExperts(reader, file, family.model_type, &config));
  HM_ASSIGN(const int64_t vocab_size, VocabularySize(reader, file));
  config["vocab_size"] = vocab_size;
  config["tie_word_embeddings"] = FindTensor(file, "output.weight") == nullptr;
  HM_TRY(AddTokenIds(file.metadata, &config));
  return config;
}

}  // namespace halfmoon::checkpoint
