// SPDX-License-Identifier: Apache-2.0
#include "model/config_reader.h"

#include <cmath>
#include <optional>
#include <string>

namespace halfmoon::model {
namespace {

// Far above every published model, far below what could overflow a size computed from them.
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxPositions = 1 << 28;

Error OutOfRange(std::string_view key, int64_t low, int64_t high, int64_t found) {
  return Error(ErrorCode::kInvalidArgument,
               "field '" + std::string(key) + "': expected " + std::to_string(low) + " to " +
                   std::to_string(high) + ", found " + std::to_string(found));
}

Result<double> ReadPositive(const json::object& object, std::string_view key,
                            std::optional<double> fallback) {
  HM_ASSIGN(const std::optional<double> found, json::FindDouble(object, key));
  if (!found.has_value() && fallback.has_value()) return *fallback;
  if (!found.has_value()) {
    return Error(ErrorCode::kInvalidArgument, "field '" + std::string(key) + "' is missing");
  }
  if (!std::isfinite(*found) || *found <= 0.0) {
    return Error(ErrorCode::kInvalidArgument, "field '" + std::string(key) +
                                                  "': expected a positive number, found " +
                                                  std::to_string(*found));
  }
  return *found;
}

Result<std::vector<int32_t>> ReadEosIds(const json::object& config, int64_t vocab_size) {
  std::vector<int32_t> ids;
  const json::value* field = config.if_contains("eos_token_id");
  if (field == nullptr || field->is_null()) return ids;
  const json::array one{*field};
  for (const json::value& id : field->is_array() ? field->as_array() : one) {
    if (!id.is_int64() || id.as_int64() < 0 || id.as_int64() >= vocab_size) {
      return Error(ErrorCode::kInvalidArgument, "field 'eos_token_id': expected token ids below " +
                                                    std::to_string(vocab_size) + ", found " +
                                                    json::Serialize(*field));
    }
    ids.push_back(static_cast<int32_t>(id.as_int64()));
  }
  return ids;
}

// YaRN's magnitude correction g(F, m) (models.md 0, YaRN).
double YarnMagnitude(double factor, double m) {
  return factor <= 1.0 ? 1.0 : 0.1 * m * std::log(factor) + 1.0;
}

Status ReadYarn(const json::object& parameters, RopeDescription* rope) {
  rope->scaling = RopeScaling::kYarn;
  HM_ASSIGN(rope->original_max_positions,
            ReadPositive(parameters, "original_max_position_embeddings", std::nullopt));
  HM_ASSIGN(rope->beta_fast, ReadPositive(parameters, "beta_fast", 32.0));
  HM_ASSIGN(rope->beta_slow, ReadPositive(parameters, "beta_slow", 1.0));
  HM_ASSIGN(rope->truncate, ReadBoolOr(parameters, "truncate", true));
  HM_ASSIGN(const auto attention_factor, json::FindDouble(parameters, "attention_factor"));
  HM_ASSIGN(const auto mscale, json::FindDouble(parameters, "mscale"));
  HM_ASSIGN(const auto mscale_all_dim, json::FindDouble(parameters, "mscale_all_dim"));
  rope->mscale_all_dim = mscale_all_dim.value_or(0.0);
  if (attention_factor.has_value()) {
    rope->attention_factor = *attention_factor;
  } else if (mscale.value_or(0.0) != 0.0 && mscale_all_dim.value_or(0.0) != 0.0) {
    rope->attention_factor =
        YarnMagnitude(rope->factor, *mscale) / YarnMagnitude(rope->factor, *mscale_all_dim);
  } else {
    rope->attention_factor = YarnMagnitude(rope->factor, 1.0);
  }
  return {};
}

}  // namespace

Result<int64_t> ReadInt(const json::object& config, std::string_view key, int64_t low,
                        int64_t high) {
  HM_ASSIGN(const int64_t found, json::RequireInt(config, key));
  if (found < low || found > high) return OutOfRange(key, low, high, found);
  return found;
}

Result<int64_t> ReadIntOr(const json::object& config, std::string_view key, int64_t low,
                          int64_t high, int64_t fallback) {
  HM_ASSIGN(const auto found, json::FindInt(config, key));
  if (!found.has_value()) return fallback;
  if (*found < low || *found > high) return OutOfRange(key, low, high, *found);
  return *found;
}

Result<bool> ReadBoolOr(const json::object& config, std::string_view key, bool fallback) {
  HM_ASSIGN(const auto found, json::FindBool(config, key));
  return found.value_or(fallback);
}

Result<double> ReadScaleOr(const json::object& config, std::string_view key, double fallback) {
  HM_ASSIGN(const double found, ReadPositive(config, key, fallback));
  if (found > 1e6) {
    return Error(
        ErrorCode::kInvalidArgument,
        "field '" + std::string(key) + "': expected at most 1e6, found " + std::to_string(found));
  }
  return found;
}

Result<RopeDescription> ReadRope(const json::object& config, int head_dim) {
  RopeDescription rope;
  HM_ASSIGN(const json::object* nested, json::FindObject(config, "rope_parameters"));
  HM_ASSIGN(const json::object* scaling, json::FindObject(config, "rope_scaling"));
  // In the newer spelling one object holds everything; in the older, theta stands beside the
  // scaling.
  if (nested != nullptr) scaling = nested;
  const json::object& theta_home =
      nested != nullptr && nested->contains("rope_theta") ? *nested : config;
  HM_ASSIGN(rope.theta, ReadPositive(theta_home, "rope_theta", 10000.0));
  double partial = 1.0;
  const json::object& partial_home =
      nested != nullptr && nested->contains("partial_rotary_factor") ? *nested : config;
  HM_ASSIGN(partial, ReadPositive(partial_home, "partial_rotary_factor", 1.0));
  rope.rotary_dim = static_cast<int>(head_dim * partial);
  if (rope.rotary_dim < 2 || rope.rotary_dim > head_dim || rope.rotary_dim % 2 != 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "rotary dimensions: expected an even number from 2 to head_dim " +
                     std::to_string(head_dim) + ", found " + std::to_string(rope.rotary_dim));
  }
  if (scaling == nullptr) return rope;

  HM_ASSIGN(auto type, json::FindString(*scaling, "rope_type"));
  if (!type.has_value()) {
    HM_ASSIGN(type, json::FindString(*scaling, "type"));
  }
  const std::string name = type.value_or("default");
  if (name == "default") return rope;
  HM_ASSIGN(rope.factor, ReadPositive(*scaling, "factor", std::nullopt));
  if (name == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (name == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    HM_ASSIGN(rope.original_max_positions,
              ReadPositive(*scaling, "original_max_position_embeddings", std::nullopt));
    HM_ASSIGN(rope.low_freq_factor, ReadPositive(*scaling, "low_freq_factor", std::nullopt));
    HM_ASSIGN(rope.high_freq_factor, ReadPositive(*scaling, "high_freq_factor", std::nullopt));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return Error(ErrorCode::kInvalidArgument,
                   "rope_scaling: high_freq_factor has to be above low_freq_factor");
    }
  } else if (name == "yarn") {
    HM_TRY(ReadYarn(*scaling, &rope).WithContext("rope_scaling"));
  } else {
    return Error(ErrorCode::kUnsupported,
                 "rope type '" + name + "' is not one of default, linear, llama3, yarn");
  }
  return rope;
}

Result<ModelDescription> ReadCommon(const json::object& config, std::string_view family) {
  ModelDescription model;
  model.family = family;
  HM_ASSIGN(model.hidden_dim, ReadInt(config, "hidden_size", 1, kMaxDim));
  HM_ASSIGN(model.vocab_size, ReadInt(config, "vocab_size", 1, kMaxVocab));
  HM_ASSIGN(model.ffn_dim, ReadInt(config, "intermediate_size", 1, kMaxDim));
  HM_ASSIGN(const int64_t num_layers, ReadInt(config, "num_hidden_layers", 1, kMaxLayers));
  model.layers.resize(static_cast<size_t>(num_layers));
  HM_ASSIGN(const double eps, ReadPositive(config, "rms_norm_eps", 1e-6));
  model.norm_eps = static_cast<float>(eps);
  HM_ASSIGN(model.tied_embeddings, ReadBoolOr(config, "tie_word_embeddings", false));
  HM_ASSIGN(const int64_t positions,
            ReadIntOr(config, "max_position_embeddings", 1, kMaxPositions, 2048));
  model.max_positions = static_cast<int>(positions);
  HM_ASSIGN(model.eos_ids, ReadEosIds(config, model.vocab_size));
  HM_TRY(ExpectString(config, "hidden_act", "silu"));
  return model;
}

Result<AttentionDescription> ReadGroupedAttention(const json::object& config, int64_t hidden_dim) {
  AttentionDescription attention;
  HM_ASSIGN(const int64_t heads, ReadInt(config, "num_attention_heads", 1, kMaxHeads));
  HM_ASSIGN(const int64_t kv_heads, ReadIntOr(config, "num_key_value_heads", 1, kMaxHeads, heads));
  if (heads % kv_heads != 0) {
    return Error(ErrorCode::kInvalidArgument, "num_attention_heads " + std::to_string(heads) +
                                                  " is not a multiple of num_key_value_heads " +
                                                  std::to_string(kv_heads));
  }
  HM_ASSIGN(const int64_t head_dim,
            ReadIntOr(config, "head_dim", 2, kMaxHeadDim, hidden_dim / heads));
  if (head_dim < 2 || head_dim % 2 != 0) {
    return Error(ErrorCode::kInvalidArgument,
                 "head_dim: expected an even number, found " + std::to_string(head_dim));
  }
  attention.num_heads = static_cast<int>(heads);
  attention.num_kv_heads = static_cast<int>(kv_heads);
  attention.head_dim = static_cast<int>(head_dim);
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  HM_ASSIGN(attention.qkv_bias, ReadBoolOr(config, "attention_bias", false));
  attention.output_bias = attention.qkv_bias;
  HM_ASSIGN(attention.rope, ReadRope(config, attention.head_dim));
  return attention;
}

Result<ModelDescription> ReadCommonWithGroupedAttention(const json::object& config,
                                                        std::string_view family) {
  HM_ASSIGN(ModelDescription model, ReadCommon(config, family));
  HM_ASSIGN(model.attention, ReadGroupedAttention(config, model.hidden_dim));
  return model;
}

Result<AttentionDescription> ReadLatentAttention(const json::object& config) {
  AttentionDescription attention;
  attention.kind = AttentionKind::kMla;
  HM_ASSIGN(const int64_t heads, ReadInt(config, "num_attention_heads", 1, kMaxHeads));
  HM_ASSIGN(const int64_t q_rank, ReadIntOr(config, "q_lora_rank", 0, kMaxDim, 0));
  HM_ASSIGN(const int64_t latent_dim, ReadInt(config, "kv_lora_rank", 1, kMaxHeadDim));
  HM_ASSIGN(const int64_t nope_dim, ReadInt(config, "qk_nope_head_dim", 1, kMaxHeadDim));
  HM_ASSIGN(const int64_t rope_dim, ReadInt(config, "qk_rope_head_dim", 2, kMaxHeadDim));
  HM_ASSIGN(const int64_t value_dim, ReadInt(config, "v_head_dim", 1, kMaxHeadDim));
  attention.num_heads = static_cast<int>(heads);
  attention.num_kv_heads = static_cast<int>(heads);
  attention.head_dim = static_cast<int>(nope_dim + rope_dim);
  attention.mla = {.q_rank = static_cast<int>(q_rank),
                   .latent_dim = static_cast<int>(latent_dim),
                   .nope_dim = static_cast<int>(nope_dim),
                   .rope_dim = static_cast<int>(rope_dim),
                   .value_dim = static_cast<int>(value_dim)};
  HM_ASSIGN(attention.qkv_bias, ReadBoolOr(config, "attention_bias", false));
  attention.output_bias = attention.qkv_bias;
  HM_ASSIGN(const bool interleaved, ReadBoolOr(config, "rope_interleave", true));
  if (!interleaved) {
    return Error(ErrorCode::kUnsupported,
                 "rope_interleave false: latent attention is known with interleaved pairs only");
  }
  HM_ASSIGN(attention.rope, ReadRope(config, attention.mla.rope_dim));
  double scale = 1.0 / std::sqrt(static_cast<double>(attention.head_dim));
  if (attention.rope.mscale_all_dim != 0.0) {
    const double g = YarnMagnitude(attention.rope.factor, attention.rope.mscale_all_dim);
    scale *= g * g;
  }
  attention.scale = static_cast<float>(scale);
  return attention;
}

Status ReadExpertGroups(const json::object& config, MoeDescription* moe) {
  HM_ASSIGN(const int64_t groups, ReadIntOr(config, "n_group", 1, moe->num_experts, 1));
  HM_ASSIGN(const int64_t kept, ReadIntOr(config, "topk_group", 1, groups, groups));
  if (moe->num_experts % groups != 0) {
    return Error(ErrorCode::kInvalidArgument, "n_group " + std::to_string(groups) +
                                                  " does not divide the " +
                                                  std::to_string(moe->num_experts) + " experts");
  }
  const int64_t eligible = moe->num_experts / groups * kept;
  if (moe->top_k > eligible) {
    return Error(ErrorCode::kInvalidArgument, "num_experts_per_tok " + std::to_string(moe->top_k) +
                                                  " is above the " + std::to_string(eligible) +
                                                  " experts of topk_group groups");
  }
  moe->num_groups = static_cast<int>(groups);
  moe->kept_groups = static_cast<int>(kept);
  return {};
}

Status ReadDensePrefix(const json::object& config, ModelDescription* model) {
  HM_ASSIGN(const int64_t dense,
            ReadIntOr(config, "first_k_dense_replace", 0, model->num_layers(), 0));
  for (int64_t i = dense; i < model->num_layers(); ++i) {
    model->layers[static_cast<size_t>(i)].ffn = FfnKind::kMoe;
  }
  return {};
}

Result<int> ReadMtpLayers(const json::object& config) {
  HM_ASSIGN(const int64_t layers, ReadIntOr(config, "num_nextn_predict_layers", 0, 1, 0));
  return static_cast<int>(layers);
}

Status ExpectString(const json::object& config, std::string_view key, std::string_view expected) {
  HM_ASSIGN(const auto found, json::FindString(config, key));
  if (!found.has_value() || *found == expected) return {};
  return Error(ErrorCode::kUnsupported, "field '" + std::string(key) + "': only '" +
                                            std::string(expected) + "' is known, found '" + *found +
                                            "'");
}

}  // namespace halfmoon::model
