// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <utility>

#include "model/expert_catalog.h"
#include "model/unused_tensors.h"
#include "model/weight_loader.h"

namespace halfmoon::model {
namespace {

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

Status LoadExperts(WeightLoader* loader, const ModelDescription& model, int layer,
                   ExpertCatalog* on_disk, std::vector<FfnWeights>* experts) {
  if (on_disk != nullptr) {
    HM_TRY(on_disk->AddLayer(loader->checkpoint(), model, layer));
    for (const DiskExpert& expert : on_disk->Layer(layer)) {
      for (const DiskMatrix& matrix : expert.matrices) loader->Skip(matrix.source);
    }
    return {};
  }
  const TensorNames& names = model.names;
  for (int expert = 0; expert < model.moe.num_experts; ++expert) {
    HM_ASSIGN(FfnWeights ffn, LoadFfn(loader,
                                      {.gate = TensorName(names.expert_gate, layer, expert),
                                       .up = TensorName(names.expert_up, layer, expert),
                                       .down = TensorName(names.expert_down, layer, expert)},
                                      model.hidden_dim, model.moe.expert_dim, false));
    experts->push_back(std::move(ffn));
  }
  return {};
}

Status LoadMoe(WeightLoader* loader, const ModelDescription& model, int layer,
               ExpertCatalog* on_disk, LayerWeights* w) {
  const TensorNames& names = model.names;
  const MoeDescription& moe = model.moe;
  const int64_t h = model.hidden_dim;
  const auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };
  HM_ASSIGN(w->router, loader->LinearLayer(name(names.router), moe.num_experts, h, false));
  if (moe.choice_bias) {
    HM_ASSIGN(w->router_bias, loader->Vector(name(names.router_bias), moe.num_experts));
  }
  HM_TRY(LoadExperts(loader, model, layer, on_disk, &w->experts));
  if (moe.shared_dim == 0) return {};
  HM_ASSIGN(w->shared, LoadFfn(loader,
                               {.gate = name(names.shared_gate),
                                .up = name(names.shared_up),
                                .down = name(names.shared_down)},
                               h, moe.shared_dim, false));
  return {};
}

Result<LayerWeights> LoadLayer(WeightLoader* loader, const ModelDescription& model, int layer,
                               FfnKind ffn, ExpertCatalog* on_disk) {
  const TensorNames& names = model.names;
  const AttentionDescription& attention = model.attention;
  const int64_t h = model.hidden_dim;
  const auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };
  const bool latent = attention.kind == AttentionKind::kMla;

  LayerWeights w;
  HM_ASSIGN(w.attention_norm, loader->Vector(name(names.attention_norm) + ".weight", h));
  if (latent) {
    HM_ASSIGN(w.latent, LoadLatentAttention(loader, model, layer));
  } else {
    HM_ASSIGN(w.grouped, LoadGroupedAttention(loader, model, layer));
  }
  const int64_t o_inputs =
      int64_t{attention.num_heads} * (latent ? attention.mla.value_dim : attention.head_dim);
  HM_ASSIGN(w.o, loader->LinearLayer(name(names.o), h, o_inputs, attention.output_bias));
  HM_ASSIGN(w.ffn_norm, loader->Vector(name(names.ffn_norm) + ".weight", h));
  if (ffn == FfnKind::kMoe) {
    HM_TRY(LoadMoe(loader, model, layer, on_disk, &w));
    return w;
  }
  HM_ASSIGN(w.ffn, LoadFfn(loader,
                           {.gate = name(names.ffn_gate),
                            .up = name(names.ffn_up),
                            .down = name(names.ffn_down)},
                           h, model.ffn_dim, model.ffn_bias));
  return w;
}

Result<MtpWeights> LoadMtp(WeightLoader* loader, const ModelDescription& model, int layer,
                           ExpertCatalog* on_disk) {
  const TensorNames& names = model.names;
  const int64_t h = model.hidden_dim;
  const auto name = [layer](const std::string& pattern) { return TensorName(pattern, layer); };
  MtpWeights w;
  HM_ASSIGN(w.embed_norm, loader->Vector(name(names.mtp_embed_norm) + ".weight", h));
  HM_ASSIGN(w.hidden_norm, loader->Vector(name(names.mtp_hidden_norm) + ".weight", h));
  HM_ASSIGN(w.projection, loader->LinearLayer(name(names.mtp_projection), h, 2 * h, false));
  HM_ASSIGN(w.layer, LoadLayer(loader, model, layer,
                               model.has_moe() ? FfnKind::kMoe : FfnKind::kDense, on_disk));
  HM_ASSIGN(w.final_norm, loader->Vector(name(names.mtp_final_norm) + ".weight", h));
  return w;
}

}  // namespace

size_t ModelWeights::size_bytes() const {
  size_t total = lm_head.weight.size_bytes();
  const auto add = [&](const kernels::PackedMatrix& matrix) { total += matrix.size_bytes(); };
  const auto add_layer = [&](const LayerWeights& layer) {
    ForEachLayerMatrix(layer, add);
    for (const kernels::PackedMatrix& head : layer.latent.key) add(head);
    for (const FfnWeights& expert : layer.experts) ForEachFfnMatrix(expert, add);
  };
  for (const LayerWeights& layer : layers) add_layer(layer);
  for (const MtpWeights& draft : mtp) {
    add_layer(draft.layer);
    add(draft.projection.weight);
  }
  return total;
}

Result<ModelWeights> LoadWeights(const checkpoint::Checkpoint& checkpoint,
                                 const ModelDescription& description, ThreadPool* pool,
                                 const LoadOptions& options, const WeightStorage& storage,
                                 ExpertCatalog* on_disk) {
  WeightLoader loader(checkpoint, pool, options, storage);
  const TensorNames& names = description.names;
  const int64_t v = description.vocab_size;
  const int64_t h = description.hidden_dim;
  ModelWeights weights;
  HM_ASSIGN(weights.embed, loader.Find(names.embed + ".weight", tensor::Shape{v, h}));
  for (int layer = 0; layer < description.num_layers(); ++layer) {
    HM_ASSIGN(LayerWeights w,
              LoadLayer(&loader, description, layer,
                        description.layers[static_cast<size_t>(layer)].ffn, on_disk));
    weights.layers.push_back(std::move(w));
  }
  HM_ASSIGN(weights.final_norm, loader.Vector(names.final_norm + ".weight", h));
  // A tied checkpoint may or may not repeat the embedding as lm_head; the embedding is what counts.
  const std::string& head = description.tied_embeddings ? names.embed : names.lm_head;
  HM_ASSIGN(weights.lm_head, loader.LinearLayer(head, v, h, false));
  for (int i = 0; i < description.num_mtp_layers; ++i) {
    HM_ASSIGN(MtpWeights w, LoadMtp(&loader, description, description.num_layers() + i, on_disk));
    weights.mtp.push_back(std::move(w));
  }
  HM_TRY(HandleUnusedTensors(
      FindUnusedTensors(checkpoint, description, loader.used()),
      options.description_file.empty() ? UnusedTensors::kWarn : UnusedTensors::kRefuse));
  return weights;
}

}  // namespace halfmoon::model
