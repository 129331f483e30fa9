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

/// Rotary embedding (models.md 0, RoPE). Pairs over the first rotary_dim values of a head.
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
  double mscale_all_dim = 0.0;          ///< yarn; MLA multiplies its softmax scale with it
  bool truncate = true;                 ///< yarn: whole-number ramp borders
};

enum class AttentionKind {
  kGqa,  ///< N query heads share G key/value heads of D values
  kMla,  ///< all heads share one latent vector (models.md 4)
};

/// RMSNorm of q and k before RoPE.
enum class QkNorm {
  kNone,
  kPerHead,  ///< each head by itself, one weight [D] for all (Qwen3)
  kWhole,    ///< all heads as one vector, weight [N D] (MiniMax M2)
};

/// Ranks and parts of multi-head latent attention.
struct MlaDescription {
  int q_rank = 0;      ///< q_lora_rank; 0: q comes straight from the residual stream
  int latent_dim = 0;  ///< c, kv_lora_rank
  int nope_dim = 0;    ///< of a query or key head, without position
  int rope_dim = 0;    ///< dr, rotated; interleaved pairs
  int value_dim = 0;   ///< dv
};

/// The lightning indexer of sparse attention (models.md 5). num_heads 0: attention is dense.
struct IndexerDescription {
  int num_heads = 0;
  int head_dim = 0;
  int top_k = 0;  ///< keys that a query attends to
};

struct AttentionDescription {
  AttentionKind kind = AttentionKind::kGqa;
  int num_heads = 0;
  int num_kv_heads = 0;   ///< kMla: as published, without meaning
  int head_dim = 0;       ///< kMla: nope_dim + rope_dim
  bool qkv_bias = false;  ///< kMla: of the down projections
  bool output_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  float scale = 0.0f;  ///< of q·k
  RopeDescription rope;
  MlaDescription mla;
  IndexerDescription indexer;
};

enum class ExpertScore {
  kSoftmax,  ///< softmax of the gate logits over all experts
  kSigmoid,  ///< sigmoid of each
};

/// Routing over E experts, K chosen (models.md 0: Softmax routing, noaux_tc).
struct MoeDescription {
  int num_experts = 0;
  int top_k = 0;
  int expert_dim = 0;  ///< F
  ExpertScore score = ExpertScore::kSoftmax;
  bool choice_bias = false;       ///< a bias that is added for the choice only
  int num_groups = 1;             ///< runs of experts; each scores the sum of its two best
  int kept_groups = 1;            ///< groups whose experts may be chosen
  bool normalise_weights = true;  ///< divide the chosen weights by their sum
  float norm_epsilon = 0.0f;      ///< added to that sum
  float weight_scale = 1.0f;      ///< of the chosen weights, last
  int shared_dim = 0;             ///< width of the shared expert; 0: none
};

enum class FfnKind { kDense, kMoe };

struct LayerDescription {
  FfnKind ffn = FfnKind::kDense;
  int sliding_window = 0;  ///< 0: full attention
};

/// Published tensor names, without ".weight" where the tensor is one of several of a layer; {L} is
/// the layer, {E} the expert.
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
  /// Rows of q, k and v in one tensor (Ling); empty: three tensors.
  std::string qkv;
  std::string q_norm = "model.layers.{L}.self_attn.q_norm";
  std::string k_norm = "model.layers.{L}.self_attn.k_norm";
  std::string q_a = "model.layers.{L}.self_attn.q_a_proj";
  std::string q_a_norm = "model.layers.{L}.self_attn.q_a_layernorm";
  std::string q_b = "model.layers.{L}.self_attn.q_b_proj";
  std::string kv_a = "model.layers.{L}.self_attn.kv_a_proj_with_mqa";
  std::string kv_a_norm = "model.layers.{L}.self_attn.kv_a_layernorm";
  std::string kv_b = "model.layers.{L}.self_attn.kv_b_proj";
  /// The two halves of kv_b, the first transposed per head, as newer GGUF files hold them.
  std::string k_b = "model.layers.{L}.self_attn.k_b_proj";
  std::string v_b = "model.layers.{L}.self_attn.v_b_proj";
  std::string indexer_q_b = "model.layers.{L}.self_attn.indexer.wq_b";
  std::string indexer_k = "model.layers.{L}.self_attn.indexer.wk";
  std::string indexer_k_norm = "model.layers.{L}.self_attn.indexer.k_norm";
  std::string indexer_weights = "model.layers.{L}.self_attn.indexer.weights_proj";
  std::string ffn_gate = "model.layers.{L}.mlp.gate_proj";
  std::string ffn_up = "model.layers.{L}.mlp.up_proj";
  std::string ffn_down = "model.layers.{L}.mlp.down_proj";
  std::string router = "model.layers.{L}.mlp.gate";
  /// Whole name of the bias of the choice.
  std::string router_bias = "model.layers.{L}.mlp.gate.e_score_correction_bias";
  std::string expert_gate = "model.layers.{L}.mlp.experts.{E}.gate_proj";
  std::string expert_up = "model.layers.{L}.mlp.experts.{E}.up_proj";
  std::string expert_down = "model.layers.{L}.mlp.experts.{E}.down_proj";
  std::string shared_gate = "model.layers.{L}.mlp.shared_experts.gate_proj";
  std::string shared_up = "model.layers.{L}.mlp.shared_experts.up_proj";
  std::string shared_down = "model.layers.{L}.mlp.shared_experts.down_proj";
  std::string mtp_embed_norm = "model.layers.{L}.enorm";
  std::string mtp_hidden_norm = "model.layers.{L}.hnorm";
  std::string mtp_projection = "model.layers.{L}.eh_proj";
  std::string mtp_final_norm = "model.layers.{L}.shared_head.norm";
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
  /// Draft layers for multi-token prediction after the last layer: 0 or 1. A MoE layer where the
  /// model has experts.
  int num_mtp_layers = 0;
  TensorNames names;

  int num_layers() const { return static_cast<int>(layers.size()); }
  bool has_moe() const;
};

/// `pattern` with {L} and {E} filled in.
std::string TensorName(std::string_view pattern, int layer, int expert = 0);

}  // namespace halfmoon::model
