// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {
namespace {

using enum GgufAttention;
using enum GgufRouting;

constexpr GgufFamily kFamilies[] = {
    {.gguf = "llama", .model_type = "llama", .class_name = "LlamaForCausalLM", .rope_pairs = true},
    {.gguf = "llama",
     .model_type = "mixtral",
     .class_name = "MixtralForCausalLM",
     .routing = kSoftmax,
     .block_sparse = true,
     .rope_pairs = true},
    {.gguf = "qwen3", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM"},
    {.gguf = "qwen3moe",
     .model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     .routing = kSoftmax},
    {.gguf = "deepseek2",
     .model_type = "deepseek_v3",
     .class_name = "DeepseekV3ForCausalLM",
     .attention = kLatent,
     .routing = kSigmoid,
     .deepseek_moe = true},
    {.gguf = "deepseek32",
     .model_type = "deepseek_v32",
     .class_name = "DeepseekV32ForCausalLM",
     .attention = kLatent,
     .routing = kSigmoid,
     .deepseek_moe = true},
    {.gguf = "bailingmoe2",
     .model_type = "bailing_moe_v2",
     .class_name = "BailingMoeV2ForCausalLM",
     .attention = kFused,
     .routing = kSigmoid,
     .deepseek_moe = true,
     .partial_rope = true},
    {.gguf = "minimax-m2",
     .model_type = "minimax_m2",
     .class_name = "MiniMaxM2ForCausalLM",
     .routing = kSigmoid,
     .block_sparse = true,
     .partial_rope = true},
    {.gguf = "glm4moe",
     .model_type = "glm4_moe",
     .class_name = "Glm4MoeForCausalLM",
     .routing = kSigmoid,
     .deepseek_moe = true,
     .partial_rope = true},
};

/// Keys that would change the result and that no block here reads: a model that sets one must not
/// pass as one that does not.
Status RefuseUnknownMathematics(const GgufKeys& keys, const GgufFamily& family) {
  for (const std::string_view key :
       {"attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias",
        "attention.output_scale", "attention.temperature_scale", "attention.temperature_length",
        "embedding_scale", "residual_scale", "logit_scale", "attn_logit_softcapping",
        "final_logit_softcapping", "router_logit_softcapping", "rope.scaling.alpha",
        "swiglu_clamp_exp", "swiglu_clamp_shexp"}) {
    HM_TRY(keys.RefuseIfSet(key));
  }
  if (family.attention != kLatent) {
    for (const std::string_view key :
         {"attention.q_lora_rank", "attention.kv_lora_rank", "rope.scaling.yarn_log_multiplier"}) {
      HM_TRY(keys.RefuseIfSet(key));
    }
  }
  if (family.deepseek_moe) return {};
  for (const std::string_view key :
       {"expert_shared_count", "leading_dense_block_count", "nextn_predict_layers"}) {
    HM_TRY(keys.RefuseIfSet(key));
  }
  for (const std::string_view key : {"expert_group_count", "expert_weights_scale"}) {
    HM_ASSIGN(const auto number, keys.FindDouble(key));
    if (number.value_or(1) != 1) HM_TRY(keys.RefuseIfSet(key));
  }
  return {};
}

/// A bias that the configuration does not announce would be left out without a word.
Status RefuseUnknownBiases(const GgufFile& file, const json::object& config) {
  const auto is_set = [&](std::string_view key) {
    const json::value* flag = config.if_contains(key);
    return flag != nullptr && flag->is_bool() && flag->as_bool();
  };
  const bool attention = is_set("attention_bias"), qkv = is_set("use_qkv_bias");
  const bool output = is_set("use_bias"), ffn = is_set("mlp_bias");
  for (const GgufTensor& tensor : file.tensors) {
    if (!tensor.name.starts_with("blk.") || !tensor.name.ends_with(".bias")) continue;
    const auto is = [&](std::string_view base) {
      return tensor.name.find("." + std::string(base) + ".bias") != std::string_view::npos;
    };
    const bool of_attention = is("attn_q") || is("attn_k") || is("attn_v") || is("attn_q_a") ||
                              is("attn_kv_a_mqa") || is("attn_output");
    const bool of_ffn = is("ffn_gate") || is("ffn_up") || is("ffn_down");
    if (is("exp_probs_b") || is("indexer.k_norm") || (attention && of_attention) ||
        (qkv && is("attn_qkv")) || (output && is("attn_output")) || (ffn && of_ffn)) {
      continue;
    }
    return Error(ErrorCode::kUnsupported, "tensor '" + std::string(tensor.name) +
                                              "' is a bias that this architecture is not known "
                                              "with");
  }
  return {};
}

/// Rows of the embedding are the truth: padding rows have no token and no place in the metadata.
Result<int64_t> VocabularySize(const GgufKeys& keys) {
  const GgufTensor* embedding = keys.FindTensor("token_embd.weight");
  if (embedding != nullptr && embedding->view.shape.rank() == 2) return embedding->view.shape[0];
  return keys.RequireCount("vocab_size");
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

/// Draft layers are counted among the blocks, but not among config.json's layers. Returns the
/// latter.
Result<int64_t> AddLayers(const GgufKeys& keys, const GgufFamily& family, json::object* config) {
  HM_ASSIGN(const int64_t num_blocks, keys.RequireCount("block_count"));
  HM_ASSIGN(const int64_t num_draft, keys.CountOrZero("nextn_predict_layers"));
  if (num_draft >= num_blocks) {
    return keys.Bad("nextn_predict_layers", std::to_string(num_draft) +
                                                ", expected less than the " +
                                                std::to_string(num_blocks) + " blocks");
  }
  const int64_t num_layers = num_blocks - num_draft;
  (*config)["num_hidden_layers"] = num_layers;
  if (family.deepseek_moe) {
    // Some files announce a draft layer and leave its tensors out.
    const std::string first = "blk." + std::to_string(num_layers) + ".nextn.eh_proj.weight";
    (*config)["num_nextn_predict_layers"] = keys.FindTensor(first) == nullptr ? 0 : num_draft;
  }
  return num_layers;
}

Status AddSizes(const GgufKeys& keys, const GgufFamily& family, json::object* config) {
  HM_ASSIGN((*config)["hidden_size"], keys.RequireCount("embedding_length"));
  HM_ASSIGN(const auto intermediate_size, keys.FindCount("feed_forward_length"));
  if (intermediate_size.has_value()) {
    (*config)["intermediate_size"] = *intermediate_size;
  } else if (family.model_type != "qwen3_moe" && family.model_type != "minimax_m2") {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + keys.Name("feed_forward_length") + "' is missing");
  }
  HM_ASSIGN((*config)["max_position_embeddings"], keys.RequireCount("context_length"));
  HM_ASSIGN(const auto eps, keys.FindPositive("attention.layer_norm_rms_epsilon"));
  if (!eps.has_value()) {
    return Error(ErrorCode::kCorrupt,
                 "metadata '" + keys.Name("attention.layer_norm_rms_epsilon") + "' is missing");
  }
  (*config)["rms_norm_eps"] = *eps;
  return {};
}

}  // namespace

Result<GgufFamily> FindGgufFamily(std::string_view architecture, bool has_experts) {
  std::string known;
  for (const GgufFamily& family : kFamilies) {
    const bool is_mixtral = family.model_type == "mixtral";
    if (family.gguf == architecture && (architecture != "llama" || is_mixtral == has_experts)) {
      return family;
    }
    if (!is_mixtral) known += (known.empty() ? "" : ", ") + std::string(family.gguf);
  }
  return Error(ErrorCode::kUnsupported, "GGUF architecture '" + std::string(architecture) +
                                            "' is not supported; supported are " + known);
}

const GgufFamily& GgufFamilyOf(const json::object& config) {
  const std::string_view class_name = config.at("architectures").as_array().at(0).as_string();
  const auto* found = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const GgufFamily& f) { return f.class_name == class_name; });
  HM_CHECK(found != std::end(kFamilies));
  return *found;
}

Result<json::object> GgufConfig(const GgufFile& file) {
  HM_ASSIGN(const std::string_view architecture,
            file.metadata.RequireString("general.architecture"));
  const GgufKeys keys(file, architecture);
  HM_ASSIGN(const auto expert_count, keys.FindInt("expert_count"));
  const bool has_experts = expert_count.value_or(0) > 0;
  HM_ASSIGN(const GgufFamily family, FindGgufFamily(architecture, has_experts));
  HM_TRY(RefuseUnknownMathematics(keys, family));
  HM_ASSIGN(const auto pre, file.metadata.FindString("tokenizer.ggml.pre"));
  // Kimi K2 is DeepSeek V3 with other sizes, and stored as such; its vocabulary tells.
  const bool is_kimi = family.model_type == "deepseek_v3" && pre.value_or("") == "kimi-k2";

  json::object config;
  config["architectures"] = json::array{family.class_name};
  config["model_type"] = is_kimi ? "kimi_k2" : family.model_type;
  config["hidden_act"] = "silu";
  HM_TRY(AddSizes(keys, family, &config));
  HM_ASSIGN(const int64_t num_layers, AddLayers(keys, family, &config));
  if (family.attention == kLatent) {
    HM_TRY(AddLatentAttention(keys, family, &config));
  } else {
    HM_TRY(AddGroupedAttention(keys, family, config.at("hidden_size").as_int64(), &config));
  }
  HM_ASSIGN(const auto theta, keys.FindPositive("rope.freq_base"));
  config["rope_theta"] = theta.value_or(10000.0);
  HM_ASSIGN(config["rope_scaling"], RopeScaling(keys, family, is_kimi));
  if (family.routing != kNone) {
    HM_TRY(AddExperts(keys, family, num_layers, &config));
  } else {
    HM_TRY(keys.RefuseIfSet("expert_count"));
  }
  HM_ASSIGN(const int64_t vocab_size, VocabularySize(keys));
  config["vocab_size"] = vocab_size;
  config["tie_word_embeddings"] = keys.FindTensor("output.weight") == nullptr;
  HM_TRY(AddTokenIds(file.metadata, &config));
  HM_TRY(RefuseUnknownBiases(file, config));
  return config;
}

}  // namespace halfmoon::checkpoint
