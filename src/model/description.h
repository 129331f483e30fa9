// SPDX-License-Identifier: Apache-2.0
// What a model is, as data: everything the forward pass and the loader need to know about a family.
// Built from config.json (or GGUF metadata in the same keys) by arch/<family>.cc; plain values, no
// behaviour beyond names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halfmoon::model {

enum class RopeScaling { kNone, kLinear, kLlama3, kYarn };

/// Rotary embedding (models.md 0, RoPE). Half-split pairs over the first rotary_dim values of a
/// head.
struct RopeDescription {
  double theta = 10000.0;
  int rotary_dim = 0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double original_max_positions = 0.0;  ///< llama3, yarn
  double low_freq_factor = 1.0;         ///< llama3
  double high_freq_factor = 1.0;        ///< llama3
  double beta_fast = 32.0;              ///< yarn
  double beta_slow = 1.0;               ///< yarn
  double attention_factor = 1.0;        ///< multiplies cos and sin
  bool truncate = true;                 ///< yarn: whole-number ramp borders
};

/// Grouped-query attention: N query heads share G key/value heads of D values.
struct AttentionDescription {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  bool head_norm = false;  ///< RMSNorm of each q and k head before RoPE
  float scale = 0.0f;      ///< of q·k
  RopeDescription rope;
};

/// Softmax routing over E experts, K chosen (models.md 0, Softmax routing).
struct MoeDescription {
  int num_experts = 0;
  int top_k = 0;
  int expert_dim = 0;             ///< F
  bool normalise_weights = true;  ///< divide the chosen weights by their sum
};

enum class FfnKind { kDense, kMoe };

struct LayerDescription {
  FfnKind ffn = FfnKind::kDense;
  int sliding_window = 0;  ///< 0: full attention
};

/// Published tensor names without ".weight"; {L} is the layer, {E} the expert.
struct TensorNames {
  std::string embed = "model.embed_tokens";
  std::string final_norm = "model.norm";
  std::string lm_head = "lm_head";
  std::string attention_norm = "model.layers.{L}.input_layernorm";
  std::string ffn_norm = "model.layers.{L}.post_attention_layernorm";
  std::string q = "model.layers.{L}.self_attn.q_proj";
  std::string k = "model.layers.{L}.self_attn.k_proj";
  std::string v = "model.layers.{L}.self_attn.v_proj";
  std::string o = "model.layers.{L}.self_attn.o_proj";
  std::string q_norm = "model.layers.{L}.self_attn.q_norm";
  std::string k_norm = "model.layers.{L}.self_attn.k_norm";
  std::string ffn_gate = "model.layers.{L}.mlp.gate_proj";
  std::string ffn_up = "model.layers.{L}.mlp.up_proj";
  std::string ffn_down = "model.layers.{L}.mlp.down_proj";
  std::string router = "model.layers.{L}.mlp.gate";
  std::string expert_gate = "model.layers.{L}.mlp.experts.{E}.gate_proj";
  std::string expert_up = "model.layers.{L}.mlp.experts.{E}.up_proj";
  std::string expert_down = "model.layers.{L}.mlp.experts.{E}.down_proj";
};

struct ModelDescription {
  std::string family;
  int64_t hidden_dim = 0;  ///< H
  int64_t vocab_size = 0;  ///< V, padding rows included
  int64_t ffn_dim = 0;     ///< dense FFN
  bool ffn_bias = false;
  float norm_eps = 0.0f;
  bool tied_embeddings = false;
  int max_positions = 0;
  std::vector<int32_t> eos_ids;
  AttentionDescription attention;
  MoeDescription moe;
  std::vector<LayerDescription> layers;
  TensorNames names;

  int num_layers() const { return static_cast<int>(layers.size()); }
  bool has_moe() const;
};

/// `pattern` with {L} and {E} filled in.
std::string TensorName(std::string_view pattern, int layer, int expert = 0);

}  // namespace halfmoon::model
