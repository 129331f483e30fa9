// SPDX-License-Identifier: Apache-2.0
#include "model/description_file.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "model/config_reader.h"

namespace halfmoon::model {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int64_t kMaxSize = 1 << 20;

Error Invalid(std::string message) {
  return Error(ErrorCode::kInvalidArgument, std::move(message));
}

std::string Listed(std::span<const std::string_view> names) {
  std::string list;
  for (const std::string_view name : names) list += (list.empty() ? "" : ", ") + std::string(name);
  return list;
}

/// One object of the file. Its fields are literals, "$key" for a key of config.json, {"config":
/// key, "default": literal}, {"if": value, "then": value, "else": value}, {"product": [value,
/// ...]} or {"equal": [value, literal]}, which compares a list element by element.
class Section {
 public:
  /// Both outlive the section.
  Section(std::string name, const json::object& fields, const json::object& config)
      : name_(std::move(name)), fields_(fields), config_(config) {}

  /// A field that no part reads is a part that is not known.
  Status ExpectOnly(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : fields_) {
      if (std::find(known.begin(), known.end(), std::string_view(key)) != known.end()) continue;
      return Error(ErrorCode::kUnsupported,
                   name_ + ": unknown part '" + std::string(key) +
                       "'; known: " + Listed({known.begin(), known.size()}));
    }
    return {};
  }

  bool Has(std::string_view key) const { return fields_.contains(key); }

  Result<int64_t> Int(std::string_view key, int64_t low, int64_t high) const {
    HM_ASSIGN(const json::value value, Value(key));
    if (!value.is_int64() || value.as_int64() < low || value.as_int64() > high) {
      return Invalid(Where(key) + "expected a whole number from " + std::to_string(low) + " to " +
                     std::to_string(high) + ", found " + json::Serialize(value));
    }
    return value.as_int64();
  }
  Result<int64_t> IntOr(std::string_view key, int64_t low, int64_t high, int64_t fallback) const {
    if (!Has(key)) return fallback;
    return Int(key, low, high);
  }

  Result<bool> BoolOr(std::string_view key, bool fallback) const {
    if (!Has(key)) return fallback;
    HM_ASSIGN(const json::value value, Value(key));
    if (!value.is_bool()) {
      return Invalid(Where(key) + "expected true or false, found " + json::Serialize(value));
    }
    return value.as_bool();
  }

  Result<double> NumberOr(std::string_view key, double fallback) const {
    if (!Has(key)) return fallback;
    HM_ASSIGN(const json::value value, Value(key));
    const double number = value.is_double()  ? value.as_double()
                          : value.is_int64() ? value.as_int64()
                                             : -1.0;
    if (!(number >= 0.0 && number <= 1e6)) {
      return Invalid(Where(key) + "expected a number from 0 to 1e6, found " +
                     json::Serialize(value));
    }
    return number;
  }

  /// One flag a layer, written as true and false or as 1 and 0; all `fallback` where the field is
  /// absent.
  Result<std::vector<bool>> LayersOr(std::string_view key, int num_layers, bool fallback) const {
    const auto count = static_cast<size_t>(num_layers);
    std::vector<bool> layers(count, fallback);
    if (!Has(key)) return layers;
    HM_ASSIGN(const json::value value, Value(key));
    const auto flag = [](const json::value& v) -> std::optional<bool> {
      if (v.is_bool()) return v.as_bool();
      if (v.is_int64() && (v.as_int64() == 0 || v.as_int64() == 1)) return v.as_int64() == 1;
      return std::nullopt;
    };
    bool valid = value.is_array() && value.as_array().size() == count;
    for (size_t i = 0; valid && i < count; ++i) {
      const std::optional<bool> found = flag(value.as_array()[i]);
      valid = found.has_value();
      layers[i] = found.value_or(false);
    }
    if (!valid) {
      return Invalid(Where(key) + "expected a list of " + std::to_string(count) +
                     " flags, one a layer, found " + json::Serialize(value));
    }
    return layers;
  }

  /// One of `choices`, by its index; the first where the field is absent.
  Result<size_t> Choice(std::string_view key,
                        std::initializer_list<std::string_view> choices) const {
    if (!Has(key)) return size_t{0};
    HM_ASSIGN(const json::value value, Value(key));
    const auto* found = value.is_string() ? std::find(choices.begin(), choices.end(),
                                                      std::string_view(value.as_string()))
                                          : choices.end();
    if (found == choices.end()) {
      return Error(ErrorCode::kUnsupported,
                   Where(key) + "unknown part " + json::Serialize(value) +
                       "; known: " + Listed({choices.begin(), choices.size()}));
    }
    return static_cast<size_t>(found - choices.begin());
  }

 private:
  std::string Where(std::string_view key) const { return name_ + "." + std::string(key) + ": "; }

  Result<json::value> Value(std::string_view key) const {
    const json::value* expression = fields_.if_contains(key);
    if (expression == nullptr) return Invalid(Where(key) + "missing");
    Result<json::value> value = Evaluate(*expression);
    if (!value.ok()) return value.error().WithContext(name_ + "." + std::string(key));
    return value;
  }

  Result<json::value> FromConfig(std::string_view key, const json::value* fallback) const {
    const json::value* found = config_.if_contains(key);
    if (found != nullptr && !found->is_null()) return *found;
    if (fallback != nullptr) return *fallback;
    return Invalid("config.json has no '" + std::string(key) + "'");
  }

  // The parser bounds the depth of nesting, and with it this recursion.
  Result<json::value> Evaluate(const json::value& expression) const {
    if (expression.is_string() && expression.as_string().starts_with('$')) {
      return FromConfig(std::string_view(expression.as_string()).substr(1), nullptr);
    }
    if (!expression.is_object()) return expression;
    const json::object& form = expression.as_object();
    if (const json::value* key = form.if_contains("config"); key != nullptr && key->is_string()) {
      return FromConfig(key->as_string(), form.if_contains("default"));
    }
    if (form.contains("if") && form.contains("then") && form.contains("else")) {
      HM_ASSIGN(const json::value condition, Evaluate(form.at("if")));
      if (!condition.is_bool()) {
        return Invalid("'if': expected true or false, found " + json::Serialize(condition));
      }
      return Evaluate(form.at(condition.as_bool() ? "then" : "else"));
    }
    if (const json::value* factors = form.if_contains("product");
        factors != nullptr && factors->is_array()) {
      int64_t product = 1;
      for (const json::value& factor : factors->as_array()) {
        HM_ASSIGN(const json::value value, Evaluate(factor));
        if (!value.is_int64() || value.as_int64() < 0 || value.as_int64() > kMaxSize) {
          return Invalid("'product': expected whole numbers, found " + json::Serialize(value));
        }
        product = std::min(kMaxSize * kMaxSize, product * value.as_int64());
      }
      return json::value(product);
    }
    if (const json::value* pair = form.if_contains("equal");
        pair != nullptr && pair->is_array() && pair->as_array().size() == 2) {
      HM_ASSIGN(const json::value value, Evaluate(pair->as_array()[0]));
      const json::value& literal = pair->as_array()[1];
      if (!value.is_array()) return json::value(value == literal);
      json::array equal;
      for (const json::value& element : value.as_array()) equal.push_back(element == literal);
      return json::value(equal);
    }
    return Error(ErrorCode::kUnsupported, "unknown form " + json::Serialize(expression));
  }

  std::string name_;
  const json::object& fields_;
  const json::object& config_;
};

Status ReadAttention(const Section& section, const json::object& config, ModelDescription* model) {
  HM_TRY(section.ExpectOnly({"kind", "qkv_bias", "output_bias", "qk_norm", "rotary_dim",
                             "sliding_window", "sliding_window_layers", "index_heads",
                             "index_head_dim", "index_top_k"}));
  HM_ASSIGN(const size_t kind, section.Choice("kind", {"grouped", "latent"}));
  if (kind == 0) {
    HM_ASSIGN(model->attention, ReadGroupedAttention(config, model->hidden_dim));
  } else {
    HM_ASSIGN(model->attention, ReadLatentAttention(config));
  }
  AttentionDescription& attention = model->attention;
  HM_ASSIGN(attention.qkv_bias, section.BoolOr("qkv_bias", false));
  HM_ASSIGN(attention.output_bias, section.BoolOr("output_bias", false));
  HM_ASSIGN(const size_t norm, section.Choice("qk_norm", {"none", "per_head", "whole"}));
  attention.qk_norm = static_cast<QkNorm>(norm);
  HM_ASSIGN(const int64_t rotary_dim,
            section.IntOr("rotary_dim", 2, attention.head_dim, attention.rope.rotary_dim));
  if (rotary_dim % 2 != 0) return Invalid("attention.rotary_dim: expected an even number");
  attention.rope.rotary_dim = static_cast<int>(rotary_dim);
  HM_ASSIGN(const int64_t window, section.IntOr("sliding_window", 0, INT32_MAX, 0));
  HM_ASSIGN(const std::vector<bool> windowed,
            section.LayersOr("sliding_window_layers", model->num_layers(), true));
  for (size_t i = 0; i < windowed.size(); ++i) {
    model->layers[i].sliding_window = windowed[i] ? static_cast<int>(window) : 0;
  }

  const bool latent = attention.kind == AttentionKind::kMla;
  if (latent && (norm != 0 || window != 0 || section.Has("rotary_dim"))) {
    return Error(ErrorCode::kUnsupported,
                 "attention: qk_norm, rotary_dim and sliding_window go with kind \"grouped\" only");
  }
  if (!section.Has("index_heads")) return {};
  if (!latent || attention.mla.q_rank == 0) {
    return Error(ErrorCode::kUnsupported,
                 "attention.index_heads: an indexer goes with kind \"latent\" and a q_lora_rank");
  }
  HM_ASSIGN(const int64_t heads, section.Int("index_heads", 1, 4096));
  HM_ASSIGN(const int64_t head_dim, section.Int("index_head_dim", attention.mla.rope_dim, 1024));
  HM_ASSIGN(const int64_t top_k, section.Int("index_top_k", 1, kMaxSize));
  attention.indexer = {.num_heads = static_cast<int>(heads),
                       .head_dim = static_cast<int>(head_dim),
                       .top_k = static_cast<int>(top_k)};
  return {};
}

Status ReadMixture(const Section& section, ModelDescription* model) {
  MoeDescription& moe = model->moe;
  HM_ASSIGN(const int64_t experts, section.Int("experts", 1, 65536));
  HM_ASSIGN(const int64_t top_k, section.Int("experts_per_token", 1, experts));
  HM_ASSIGN(const int64_t width, section.Int("expert_width", 1, kMaxSize));
  HM_ASSIGN(const size_t score, section.Choice("score", {"softmax", "sigmoid"}));
  HM_ASSIGN(moe.choice_bias, section.BoolOr("choice_bias", false));
  HM_ASSIGN(const int64_t groups, section.IntOr("groups", 1, experts, 1));
  HM_ASSIGN(const int64_t kept, section.IntOr("kept_groups", 1, groups, groups));
  HM_ASSIGN(moe.normalise_weights, section.BoolOr("normalise_weights", true));
  HM_ASSIGN(const double epsilon, section.NumberOr("norm_epsilon", 0.0));
  HM_ASSIGN(const double scale, section.NumberOr("weight_scale", 1.0));
  HM_ASSIGN(const int64_t shared, section.IntOr("shared_width", 0, kMaxSize, 0));
  HM_ASSIGN(const int64_t dense, section.IntOr("first_dense_layers", 0, model->num_layers(), 0));
  HM_ASSIGN(const std::vector<bool> mixtures,
            section.LayersOr("mixture_layers", model->num_layers(), true));
  if (experts % groups != 0 || top_k > experts / groups * kept) {
    return Invalid("ffn: " + std::to_string(groups) + " groups, " + std::to_string(kept) +
                   " kept, of " + std::to_string(experts) + " experts do not fit a choice of " +
                   std::to_string(top_k));
  }
  moe.num_experts = static_cast<int>(experts);
  moe.top_k = static_cast<int>(top_k);
  moe.expert_dim = static_cast<int>(width);
  moe.score = static_cast<ExpertScore>(score);
  moe.num_groups = static_cast<int>(groups);
  moe.kept_groups = static_cast<int>(kept);
  moe.norm_epsilon = static_cast<float>(epsilon);
  moe.weight_scale = static_cast<float>(scale);
  moe.shared_dim = static_cast<int>(shared);
  for (auto i = static_cast<size_t>(dense); i < mixtures.size(); ++i) {
    if (mixtures[i]) model->layers[i].ffn = FfnKind::kMoe;
  }
  return {};
}

Status ReadFfn(const Section& section, ModelDescription* model) {
  HM_TRY(section.ExpectOnly({"kind", "bias", "experts", "experts_per_token", "expert_width",
                             "score", "choice_bias", "groups", "kept_groups", "normalise_weights",
                             "norm_epsilon", "weight_scale", "shared_width", "first_dense_layers",
                             "mixture_layers"}));
  HM_ASSIGN(const size_t kind, section.Choice("kind", {"dense", "mixture"}));
  HM_ASSIGN(model->ffn_bias, section.BoolOr("bias", false));
  if (kind == 0) return {};
  return ReadMixture(section, model);
}

struct NameField {
  std::string_view name;
  std::string TensorNames::* field;
};

constexpr NameField kNames[] = {
    {"embed", &TensorNames::embed},
    {"final_norm", &TensorNames::final_norm},
    {"lm_head", &TensorNames::lm_head},
    {"attention_norm", &TensorNames::attention_norm},
    {"ffn_norm", &TensorNames::ffn_norm},
    {"q", &TensorNames::q},
    {"k", &TensorNames::k},
    {"v", &TensorNames::v},
    {"o", &TensorNames::o},
    {"qkv", &TensorNames::qkv},
    {"q_norm", &TensorNames::q_norm},
    {"k_norm", &TensorNames::k_norm},
    {"q_a", &TensorNames::q_a},
    {"q_a_norm", &TensorNames::q_a_norm},
    {"q_b", &TensorNames::q_b},
    {"kv_a", &TensorNames::kv_a},
    {"kv_a_norm", &TensorNames::kv_a_norm},
    {"kv_b", &TensorNames::kv_b},
    {"indexer_q_b", &TensorNames::indexer_q_b},
    {"indexer_k", &TensorNames::indexer_k},
    {"indexer_k_norm", &TensorNames::indexer_k_norm},
    {"indexer_weights", &TensorNames::indexer_weights},
    {"ffn_gate", &TensorNames::ffn_gate},
    {"ffn_up", &TensorNames::ffn_up},
    {"ffn_down", &TensorNames::ffn_down},
    {"router", &TensorNames::router},
    {"router_bias", &TensorNames::router_bias},
    {"expert_gate", &TensorNames::expert_gate},
    {"expert_up", &TensorNames::expert_up},
    {"expert_down", &TensorNames::expert_down},
    {"shared_gate", &TensorNames::shared_gate},
    {"shared_up", &TensorNames::shared_up},
    {"shared_down", &TensorNames::shared_down},
    {"mtp_embed_norm", &TensorNames::mtp_embed_norm},
    {"mtp_hidden_norm", &TensorNames::mtp_hidden_norm},
    {"mtp_projection", &TensorNames::mtp_projection},
    {"mtp_final_norm", &TensorNames::mtp_final_norm},
};

Status ReadTensorNames(const json::object& fields, TensorNames* names) {
  for (const auto& [key, value] : fields) {
    const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                     [&](const NameField& f) { return f.name == key; });
    if (found == std::end(kNames)) {
      return Error(ErrorCode::kUnsupported, "tensors: unknown part '" + std::string(key) + "'");
    }
    if (!value.is_string()) {
      return Invalid("tensors." + std::string(key) + ": expected a name, found " +
                     json::Serialize(value));
    }
    names->*found->field = std::string(value.as_string());
  }
  return {};
}

/// The object in field `key`; an empty one where it is absent.
Result<json::object> ObjectOrEmpty(const json::object& file, std::string_view key) {
  HM_ASSIGN(const json::object* found, json::FindObject(file, key));
  return found == nullptr ? json::object() : *found;
}

}  // namespace

Result<ModelDescription> DescribeByText(std::string_view text, const json::object& config) {
  HM_ASSIGN(const json::object file, json::ParseObject(text));
  HM_ASSIGN(const auto version, json::FindInt(file, "halfmoon_description"));
  if (version != 1) {
    return Invalid("not a description: field 'halfmoon_description' has to be 1");
  }
  const Section top("description", file, config);
  HM_TRY(top.ExpectOnly({"halfmoon_description", "comment", "model_type", "attention", "ffn",
                         "mtp_layers", "tensors"}));
  HM_ASSIGN(const std::string described, json::RequireString(file, "model_type"));
  HM_ASSIGN(const std::string model_type, json::RequireString(config, "model_type"));
  if (described != model_type) {
    return Invalid("describes model_type '" + described + "', the checkpoint is '" + model_type +
                   "'");
  }
  HM_ASSIGN(ModelDescription model, ReadCommon(config, model_type));
  HM_ASSIGN(const json::object attention, ObjectOrEmpty(file, "attention"));
  HM_TRY(ReadAttention(Section("attention", attention, config), config, &model));
  HM_ASSIGN(const json::object ffn, ObjectOrEmpty(file, "ffn"));
  HM_TRY(ReadFfn(Section("ffn", ffn, config), &model));
  HM_ASSIGN(const int64_t mtp_layers, top.IntOr("mtp_layers", 0, 1, 0));
  model.num_mtp_layers = static_cast<int>(mtp_layers);
  HM_ASSIGN(const json::object tensors, ObjectOrEmpty(file, "tensors"));
  HM_TRY(ReadTensorNames(tensors, &model.names));
  return model;
}

Result<ModelDescription> DescribeByFile(const std::filesystem::path& path,
                                        const json::object& config) {
  HM_ASSIGN(const std::string text, ReadTextFile(path, kMaxBytes));
  return DescribeByText(text, config).WithContext(path.string());
}

}  // namespace halfmoon::model
