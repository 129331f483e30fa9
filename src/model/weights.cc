// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <utility>

#include "quant/quant.h"

namespace halfmoon::model {
namespace {

/// Fetches tensors by name, checks their shapes, packs them on the pool and reports progress.
class WeightLoader {
 public:
  WeightLoader(const checkpoint::Checkpoint& checkpoint, ThreadPool* pool,
               const std::function<void(size_t, size_t)>& progress)
      : checkpoint_(checkpoint), pool_(pool), progress_(progress) {}

  Result<const checkpoint::StoredTensor*> Find(const std::string& name,
                                               const tensor::Shape& shape) const {
    const checkpoint::StoredTensor* stored = checkpoint_.Find(name);
    if (stored == nullptr) {
      return Error(ErrorCode::kInvalidArgument,
                   "tensor '" + name + "' is missing; expected shape " + shape.ToString());
    }
    if (stored->view.shape != shape) {
      return Error(ErrorCode::kInvalidArgument, "tensor '" + name + "': expected shape " +
                                                    shape.ToString() + ", found " +
                                                    stored->view.shape.ToString());
    }
    return stored;
  }

  Result<kernels::PackedMatrix> Matrix(const std::string& name, int64_t rows, int64_t cols) {
    HM_ASSIGN(const checkpoint::StoredTensor* stored, Find(name, tensor::Shape{rows, cols}));
    const size_t row_bytes = stored->view.bytes.size() / static_cast<size_t>(rows);
    const kernels::RowSource source{.dtype = stored->view.dtype,
                                    .rows = rows,
                                    .cols = cols,
                                    .row = [stored, row_bytes](int64_t row) {
                                      return stored->view.bytes.data() +
                                             static_cast<size_t>(stored->StoredRow(row)) *
                                                 row_bytes;
                                    }};
    Result<kernels::PackedMatrix> packed = kernels::NewPacked(source);
    if (!packed.ok()) return packed.error().WithContext("tensor '" + name + "'");
    pool_->ParallelFor(static_cast<size_t>(packed->num_tiles()), [&](size_t tile, int) {
      kernels::PackTile(source, static_cast<int64_t>(tile), &*packed);
    });
    Done(stored->view.bytes.size());
    return packed;
  }

  Result<std::vector<float>> Vector(const std::string& name, int64_t n) {
    HM_ASSIGN(const checkpoint::StoredTensor* stored, Find(name, tensor::Shape{n}));
    std::vector<float> stored_order(static_cast<size_t>(n));
    HM_TRY(quant::DecodeRow(stored->view.dtype, stored->view.bytes.data(), n, stored_order.data())
               .WithContext("tensor '" + name + "'"));
    std::vector<float> values(stored_order.size());
    for (int64_t i = 0; i < n; ++i) {
      values[static_cast<size_t>(i)] = stored_order[static_cast<size_t>(stored->StoredRow(i))];
    }
    Done(stored->view.bytes.size());
    return values;
  }

  Result<Linear> LinearLayer(const std::string& name, int64_t rows, int64_t cols, bool has_bias) {
    Linear linear;
    HM_ASSIGN(linear.weight, Matrix(name + ".weight", rows, cols));
    if (has_bias) {
      HM_ASSIGN(linear.bias, Vector(name + ".bias", rows));
    }
    return linear;
  }

 private:
  void Done(size_t bytes) {
    done_bytes_ += bytes;
    if (progress_) progress_(done_bytes_, checkpoint_.size_bytes());
  }

  const checkpoint::Checkpoint& checkpoint_;
  ThreadPool* pool_;
  const std::function<void(size_t, size_t)>& progress_;
  size_t done_bytes_ = 0;
};

struct FfnNames {
  std::string gate, up, down;
};

Result<FfnWeights> LoadFfn(WeightLoader* loader, const FfnNames& names, int64_t hidden_dim,
                           int64_t ffn_dim, bool has_bias) {
  FfnWeights ffn;
  HM_ASSIGN(ffn.gate, loader->LinearLayer(names.gate, ffn_dim, hidden_dim, has_bias));
  HM_ASSIGN(ffn.up, loader->LinearLayer(names.up, ffn_dim, hidden_dim, has_bias));
  HM_ASSIGN(ffn.down, loader->LinearLayer(names.down, hidden_dim, ffn_dim, has_bias));
  return ffn;
}

Result<LayerWeights> LoadLayer(WeightLoader* loader, const ModelDescription& model, int layer) {
  const TensorNames& names = model.names;
  const AttentionDescription& attention = model.attention;
  const int64_t h = model.hidden_dim;
  const int64_t q_dim = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_dim = int64_t{attention.num_kv_heads} * attention.head_dim;
  auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };

  LayerWeights w;
  HM_ASSIGN(w.attention_norm, loader->Vector(name(names.attention_norm) + ".weight", h));
  HM_ASSIGN(w.q, loader->LinearLayer(name(names.q), q_dim, h, attention.qkv_bias));
  HM_ASSIGN(w.k, loader->LinearLayer(name(names.k), kv_dim, h, attention.qkv_bias));
  HM_ASSIGN(w.v, loader->LinearLayer(name(names.v), kv_dim, h, attention.qkv_bias));
  HM_ASSIGN(w.o, loader->LinearLayer(name(names.o), h, q_dim, attention.output_bias));
  if (attention.head_norm) {
    HM_ASSIGN(w.q_norm, loader->Vector(name(names.q_norm) + ".weight", attention.head_dim));
    HM_ASSIGN(w.k_norm, loader->Vector(name(names.k_norm) + ".weight", attention.head_dim));
  }
  HM_ASSIGN(w.ffn_norm, loader->Vector(name(names.ffn_norm) + ".weight", h));
  if (model.layers[static_cast<size_t>(layer)].ffn == FfnKind::kDense) {
    HM_ASSIGN(w.ffn, LoadFfn(loader,
                             {.gate = name(names.ffn_gate),
                              .up = name(names.ffn_up),
                              .down = name(names.ffn_down)},
                             h, model.ffn_dim, model.ffn_bias));
    return w;
  }
  HM_ASSIGN(w.router, loader->LinearLayer(name(names.router), model.moe.num_experts, h, false));
  for (int expert = 0; expert < model.moe.num_experts; ++expert) {
    HM_ASSIGN(FfnWeights ffn, LoadFfn(loader,
                                      {.gate = TensorName(names.expert_gate, layer, expert),
                                       .up = TensorName(names.expert_up, layer, expert),
                                       .down = TensorName(names.expert_down, layer, expert)},
                                      h, model.moe.expert_dim, false));
    w.experts.push_back(std::move(ffn));
  }
  return w;
}

size_t SizeBytes(const FfnWeights& ffn) {
  return ffn.gate.weight.size_bytes() + ffn.up.weight.size_bytes() + ffn.down.weight.size_bytes();
}

}  // namespace

size_t ModelWeights::size_bytes() const {
  size_t total = lm_head.weight.size_bytes();
  for (const LayerWeights& layer : layers) {
    total += layer.q.weight.size_bytes() + layer.k.weight.size_bytes() +
             layer.v.weight.size_bytes() + layer.o.weight.size_bytes() +
             layer.router.weight.size_bytes() + SizeBytes(layer.ffn);
    for (const FfnWeights& expert : layer.experts) total += SizeBytes(expert);
  }
  return total;
}

Result<ModelWeights> LoadWeights(const checkpoint::Checkpoint& checkpoint,
                                 const ModelDescription& description, ThreadPool* pool,
                                 const std::function<void(size_t done, size_t total)>& progress) {
  WeightLoader loader(checkpoint, pool, progress);
  const TensorNames& names = description.names;
  const int64_t v = description.vocab_size;
  const int64_t h = description.hidden_dim;
  ModelWeights weights;
  HM_ASSIGN(weights.embed, loader.Find(names.embed + ".weight", tensor::Shape{v, h}));
  for (int layer = 0; layer < description.num_layers(); ++layer) {
    HM_ASSIGN(LayerWeights w, LoadLayer(&loader, description, layer));
    weights.layers.push_back(std::move(w));
  }
  HM_ASSIGN(weights.final_norm, loader.Vector(names.final_norm + ".weight", h));
  // A tied checkpoint may or may not repeat the embedding as lm_head; the embedding is what counts.
  const std::string& head = description.tied_embeddings ? names.embed : names.lm_head;
  HM_ASSIGN(weights.lm_head, loader.LinearLayer(head, v, h, false));
  return weights;
}

}  // namespace halfmoon::model
