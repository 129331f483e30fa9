// SPDX-License-Identifier: Apache-2.0
// GGUF tensor names > canonical ones.
#include <charconv>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::Shape;
using tensor::TensorView;

struct NamePair {
  std::string_view gguf;
  std::string_view canonical;
};

constexpr NamePair kModelNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

// Of every family; what a family calls differently is looked up first.
constexpr NamePair kLayerNames[] = {
    {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr NamePair kLatentNames[] = {
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"indexer.attn_q_b", "self_attn.indexer.wq_b"},
    {"indexer.attn_k", "self_attn.indexer.wk"},
    {"indexer.k_norm", "self_attn.indexer.k_norm"},
    {"indexer.proj", "self_attn.indexer.weights_proj"},
};

// Not published like that: kv_b_proj cut into heads of keys, transposed, and heads of values. A
// stack [heads, rows, columns] is exposed as the matrix of all its rows.
constexpr NamePair kLatentStacks[] = {
    {"attn_k_b", "self_attn.k_b_proj"},
    {"attn_v_b", "self_attn.v_b_proj"},
};

constexpr NamePair kLingNames[] = {
    {"attn_qkv", "attention.query_key_value"},    {"attn_output", "attention.dense"},
    {"attn_q_norm", "attention.query_layernorm"}, {"attn_k_norm", "attention.key_layernorm"},
    {"layer_output_norm", "final_layernorm"},
};

constexpr NamePair kGlmNames[] = {
    {"post_attention_norm", "post_attention_layernorm"},
};

// Shared experts and draft layers.
constexpr NamePair kDeepseekMoeNames[] = {
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
    {"nextn.eh_proj", "eh_proj"},
    {"nextn.enorm", "enorm"},
    {"nextn.hnorm", "hnorm"},
    {"nextn.embed_tokens", "embed_tokens"},
    {"nextn.shared_head_head", "shared_head.head"},
    {"nextn.shared_head_norm", "shared_head.norm"},
};

/// One projection of an expert, in the three spellings.
struct ExpertName {
  std::string_view gguf;
  std::string_view qwen;
  std::string_view mixtral;
};

constexpr ExpertName kExpertNames[] = {
    {"ffn_gate", "gate_proj", "w1"},
    {"ffn_down", "down_proj", "w2"},
    {"ffn_up", "up_proj", "w3"},
};

std::optional<int64_t> ParseNumber(std::string_view digits) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 0)
    return std::nullopt;
  return number;
}

std::optional<std::string_view> Lookup(std::span<const NamePair> names, std::string_view gguf) {
  for (const NamePair& pair : names) {
    if (pair.gguf == gguf) return pair.canonical;
  }
  return std::nullopt;
}

/// "blk.7.attn_q.weight" taken apart.
struct LayerName {
  std::string_view layer;   ///< "7"
  std::string_view base;    ///< "attn_q"; "ffn_gate.3" for an expert of the older spelling
  std::string_view suffix;  ///< ".weight"
};

std::optional<LayerName> SplitLayerName(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.');
  const size_t last = name.rfind('.');
  if (dot == std::string_view::npos || last == dot || !ParseNumber(name.substr(0, dot))) {
    return std::nullopt;
  }
  return LayerName{.layer = name.substr(0, dot),
                   .base = name.substr(dot + 1, last - dot - 1),
                   .suffix = name.substr(last)};
}

/// Fills a TensorMap from one file.
class Translator {
 public:
  explicit Translator(const json::object& config) : family_(GgufFamilyOf(config)) {
    const auto number = [&](std::string_view key) {
      const json::value* found = config.if_contains(key);
      return found == nullptr ? int64_t{0} : found->as_int64();
    };
    head_dim_ = number("head_dim");
    num_heads_ = number("num_attention_heads");
    for (const std::string_view key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      if (config.contains(key)) num_experts_ = number(key);
    }
  }

  Status Add(const GgufTensor& tensor) {
    if (const auto name = SplitLayerName(tensor.name); name.has_value())
      return AddOfLayer(*name, tensor);
    const size_t dot = tensor.name.rfind('.');
    if (dot != std::string_view::npos) {
      std::string_view base = tensor.name.substr(0, dot);
      if (base == "token_embd" && family_.attention == GgufAttention::kFused) {
        return Insert("model.word_embeddings" + std::string(tensor.name.substr(dot)),
                      {.view = tensor.view});
      }
      if (const auto canonical = Lookup(kModelNames, base); canonical.has_value()) {
        return Insert(std::string(*canonical) + std::string(tensor.name.substr(dot)),
                      {.view = tensor.view});
      }
    }
    return Insert(std::string(tensor.name), {.view = tensor.view});
  }

  TensorMap Take() && { return std::move(tensors_); }

 private:
  std::optional<std::string_view> CanonicalBase(std::string_view base) const {
    std::optional<std::string_view> found;
    if (family_.attention == GgufAttention::kFused) found = Lookup(kLingNames, base);
    if (!found && family_.attention == GgufAttention::kLatent) found = Lookup(kLatentNames, base);
    if (!found && family_.gguf == "glm4moe") found = Lookup(kGlmNames, base);
    if (!found && family_.deepseek_moe) found = Lookup(kDeepseekMoeNames, base);
    return found.has_value() ? found : Lookup(kLayerNames, base);
  }

  Status AddOfLayer(const LayerName& name, const GgufTensor& tensor) {
    const TensorView& view = tensor.view;
    const std::string prefix = "model.layers." + std::string(name.layer) + ".";
    if (const auto canonical = CanonicalBase(name.base); canonical.has_value()) {
      StoredTensor stored{.view = view};
      if (family_.rope_pairs && (name.base == "attn_q" || name.base == "attn_k")) {
        HM_TRY(MarkRopePairs(&stored));
      }
      return Insert(prefix + std::string(*canonical) + std::string(name.suffix), std::move(stored));
    }
    if (family_.attention == GgufAttention::kLatent) {
      if (const auto stack = Lookup(kLatentStacks, name.base); stack.has_value()) {
        return AddHeads(prefix + std::string(*stack) + std::string(name.suffix), view);
      }
    }
    if (name.base == "ffn_gate_inp") {
      return Insert(prefix + MoePrefix() + "gate" + std::string(name.suffix), {.view = view});
    }
    if (name.base == "exp_probs_b" && family_.routing == GgufRouting::kSigmoid) {
      return Insert(prefix + ChoiceBias(), {.view = view});
    }
    for (const ExpertName& expert : kExpertNames) {
      if (!name.base.starts_with(expert.gguf)) continue;
      const std::string_view rest = name.base.substr(expert.gguf.size());
      if (rest == "_exps") return AddStackedExperts(prefix, {&expert, 1}, name.suffix, view);
      const auto index = rest.starts_with('.') ? ParseNumber(rest.substr(1)) : std::nullopt;
      if (index.has_value()) {
        return Insert(NameOfExpert(prefix, expert, *index, name.suffix), {.view = view});
      }
    }
    if (name.base == "ffn_gate_up_exps") {
      const ExpertName both[] = {kExpertNames[0], kExpertNames[2]};
      return AddStackedExperts(prefix, both, name.suffix, view);
    }
    return Insert(std::string(tensor.name), {.view = view});
  }

  Status MarkRopePairs(StoredTensor* stored) const {
    const Shape& shape = stored->view.shape;
    if (shape.rank() < 1 || shape[0] % head_dim_ != 0 || head_dim_ % 2 != 0) {
      return Error(ErrorCode::kCorrupt, "shape " + shape.ToString() + " is not whole heads of " +
                                            std::to_string(head_dim_) + " rows");
    }
    stored->row_order = RowOrder::kRopePairs;
    stored->rows_per_head = head_dim_;
    return {};
  }

  std::string MoePrefix() const { return family_.block_sparse ? "block_sparse_moe." : "mlp."; }

  /// The bias of the choice is a parameter of its own, or one of the gate's.
  std::string ChoiceBias() const {
    if (family_.block_sparse) return "block_sparse_moe.e_score_correction_bias";
    if (family_.attention == GgufAttention::kFused) return "mlp.gate.expert_bias";
    return "mlp.gate.e_score_correction_bias";
  }

  std::string NameOfExpert(const std::string& prefix, const ExpertName& expert, int64_t index,
                           std::string_view suffix) const {
    return prefix + MoePrefix() + "experts." + std::to_string(index) + "." +
           std::string(family_.block_sparse ? expert.mixtral : expert.qwen) + std::string(suffix);
  }

  /// [heads, rows, columns] > [heads rows, columns]. Some writers store the latter.
  Status AddHeads(std::string name, const TensorView& view) {
    const Shape& shape = view.shape;
    // Of an empty tensor the sizes say nothing, and their product may not be one.
    const bool stacked = shape.rank() == 3 && shape[0] == num_heads_ && !view.bytes.empty();
    const bool flat = shape.rank() == 2 && shape[0] % num_heads_ == 0;
    if (!stacked && !flat) {
      return Error(ErrorCode::kCorrupt, "shape " + shape.ToString() + " is not a stack of " +
                                            std::to_string(num_heads_) + " heads");
    }
    StoredTensor stored{.view = view};
    if (stacked) stored.view.shape = Shape{shape[0] * shape[1], shape[2]};
    return Insert(std::move(name), std::move(stored));
  }

  /// [E, rows, columns] where the rows are those of `parts` one after another.
  Status AddStackedExperts(const std::string& prefix, std::span<const ExpertName> parts,
                           std::string_view suffix, const TensorView& view) {
    const Shape& shape = view.shape;
    const auto num_parts = static_cast<int64_t>(parts.size());
    if (shape.rank() < 2 || num_experts_ == 0 || shape[0] != num_experts_ ||
        shape[1] % num_parts != 0) {
      return Error(ErrorCode::kCorrupt, "shape " + shape.ToString() + " is not a stack of " +
                                            std::to_string(num_experts_) + " experts");
    }
    std::vector<int64_t> dims(shape.dims().begin() + 1, shape.dims().end());
    dims[0] /= num_parts;
    const Shape one(dims);
    const size_t size_bytes = view.bytes.size() / static_cast<size_t>(num_experts_ * num_parts);
    for (int64_t e = 0; e < num_experts_ * num_parts; ++e) {
      const ExpertName& part = parts[static_cast<size_t>(e % num_parts)];
      HM_TRY(Insert(NameOfExpert(prefix, part, e / num_parts, suffix),
                    {.view = {.dtype = view.dtype,
                              .shape = one,
                              .bytes = view.bytes.subspan(static_cast<size_t>(e) * size_bytes,
                                                          size_bytes)}}));
    }
    return {};
  }

  Status Insert(std::string name, StoredTensor stored) {
    const auto [at, inserted] = tensors_.emplace(std::move(name), std::move(stored));
    if (inserted) return {};
    return Error(ErrorCode::kCorrupt, "another tensor means '" + at->first + "' too");
  }

  const GgufFamily& family_;
  int64_t head_dim_ = 0;
  int64_t num_heads_ = 0;
  int64_t num_experts_ = 0;
  TensorMap tensors_;
};

}  // namespace

Result<TensorMap> GgufTensors(const GgufFile& file, const json::object& config) {
  Translator translator(config);
  for (const GgufTensor& tensor : file.tensors) {
    HM_TRY(translator.Add(tensor).WithContext("tensor '" + std::string(tensor.name) + "'"));
  }
  return std::move(translator).Take();
}

}  // namespace halfmoon::checkpoint
