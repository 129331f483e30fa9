// SPDX-License-Identifier: Apache-2.0
// GGUF tensor names > canonical ones.
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

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

constexpr NamePair kLayerNames[] = {
    {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

/// One projection of an expert, in the two spellings.
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
  explicit Translator(const json::object& config) {
    const std::string_view model_type = config.at("model_type").as_string();
    mixtral_ = model_type == "mixtral";
    rope_pairs_ = mixtral_ || model_type == "llama";
    head_dim_ = config.at("head_dim").as_int64();
    const json::value* experts = config.if_contains(mixtral_ ? "num_local_experts" : "num_experts");
    num_experts_ = experts == nullptr ? 0 : experts->as_int64();
  }

  Status Add(const GgufTensor& tensor) {
    if (const auto name = SplitLayerName(tensor.name); name.has_value())
      return AddOfLayer(*name, tensor.view);
    const size_t dot = tensor.name.rfind('.');
    const std::string_view base = tensor.name.substr(0, dot);
    for (const NamePair& pair : kModelNames) {
      if (base == pair.gguf && dot != std::string_view::npos) {
        return Insert(std::string(pair.canonical) + std::string(tensor.name.substr(dot)),
                      {.view = tensor.view});
      }
    }
    return Insert(std::string(tensor.name), {.view = tensor.view});
  }

  TensorMap Take() && { return std::move(tensors_); }

 private:
  Status AddOfLayer(const LayerName& name, const TensorView& view) {
    const std::string prefix = "model.layers." + std::string(name.layer) + ".";
    for (const NamePair& pair : kLayerNames) {
      if (name.base != pair.gguf) continue;
      StoredTensor stored{.view = view};
      if (rope_pairs_ && (name.base == "attn_q" || name.base == "attn_k")) {
        HM_TRY(MarkRopePairs(&stored));
      }
      return Insert(prefix + std::string(pair.canonical) + std::string(name.suffix),
                    std::move(stored));
    }
    if (name.base == "ffn_gate_inp") {
      return Insert(
          prefix + (mixtral_ ? "block_sparse_moe.gate" : "mlp.gate") + std::string(name.suffix),
          {.view = view});
    }
    for (const ExpertName& expert : kExpertNames) {
      if (!name.base.starts_with(expert.gguf)) continue;
      const std::string_view rest = name.base.substr(expert.gguf.size());
      if (rest == "_exps") return AddStackedExperts(prefix, expert, name.suffix, view);
      const auto index = rest.starts_with('.') ? ParseNumber(rest.substr(1)) : std::nullopt;
      if (index.has_value()) {
        return Insert(NameOfExpert(prefix, expert, *index, name.suffix), {.view = view});
      }
    }
    return Insert(
        "blk." + std::string(name.layer) + "." + std::string(name.base) + std::string(name.suffix),
        {.view = view});
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

  std::string NameOfExpert(const std::string& prefix, const ExpertName& expert, int64_t index,
                           std::string_view suffix) const {
    return prefix + (mixtral_ ? "block_sparse_moe.experts." : "mlp.experts.") +
           std::to_string(index) + "." + std::string(mixtral_ ? expert.mixtral : expert.qwen) +
           std::string(suffix);
  }

  Status AddStackedExperts(const std::string& prefix, const ExpertName& expert,
                           std::string_view suffix, const TensorView& view) {
    const Shape& shape = view.shape;
    if (shape.rank() < 2 || num_experts_ == 0 || shape[0] != num_experts_) {
      return Error(ErrorCode::kCorrupt, "shape " + shape.ToString() + " is not a stack of " +
                                            std::to_string(num_experts_) + " experts");
    }
    const Shape one(std::vector<int64_t>(shape.dims().begin() + 1, shape.dims().end()));
    const size_t size_bytes = view.bytes.size() / static_cast<size_t>(num_experts_);
    for (int64_t e = 0; e < num_experts_; ++e) {
      HM_TRY(Insert(NameOfExpert(prefix, expert, e, suffix),
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

  bool mixtral_ = false;
  bool rope_pairs_ = false;
  int64_t head_dim_ = 0;
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
