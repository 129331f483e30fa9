// SPDX-License-Identifier: Apache-2.0
// Weights of a model in kernel layout, and how they get there from a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "kernels/packed_matrix.h"
#include "model/description.h"
#include "model/model.h"

namespace halfmoon::model {

/// y = x Wᵀ + b.
struct Linear {
  kernels::PackedMatrix weight;
  std::vector<float> bias;  ///< empty: none
};

/// down( silu(gate x) ⊙ (up x) ): a dense FFN or one expert.
struct FfnWeights {
  Linear gate;
  Linear up;
  Linear down;
};

/// Grouped-query attention.
struct GroupedAttentionWeights {
  Linear q, k, v;
  std::vector<float> q_norm, k_norm;  ///< [D] or [N D], [G D] by QkNorm; empty without
};

/// The lightning indexer of a layer.
struct IndexerWeights {
  Linear q_b;                              ///< [nI dI, q_rank]
  Linear k;                                ///< [dI, H]
  std::vector<float> k_norm, k_norm_bias;  ///< [dI]
  Linear head_weights;                     ///< [nI, H]
};

/// Latent attention in absorbed form: kv_b_proj is cut into heads, its key half transposed. Rows
/// that make rotary values are in half-split order, though published interleaved.
struct LatentAttentionWeights {
  Linear q_a;                                 ///< [q_rank, H]; empty where q comes straight from x
  std::vector<float> q_a_norm;                ///< [q_rank]
  Linear q_b;                                 ///< [N (dn + dr), q_rank or H]
  Linear kv_a;                                ///< [c + dr, H]
  std::vector<float> kv_a_norm;               ///< [c]
  std::vector<kernels::PackedMatrix> key_up;  ///< per head [c, dn]: q_nope into the latent space
  std::vector<kernels::PackedMatrix> value_up;  ///< per head [dv, c]
  std::vector<kernels::PackedMatrix> key;       ///< per head [dn, c]; with MlaPrefill::kExpanded
  IndexerWeights indexer;                       ///< empty where attention is dense
};

struct LayerWeights {
  std::vector<float> attention_norm;  ///< [H]
  GroupedAttentionWeights grouped;    ///< AttentionKind::kGqa
  LatentAttentionWeights latent;      ///< AttentionKind::kMla
  Linear o;
  std::vector<float> ffn_norm;      ///< [H]
  FfnWeights ffn;                   ///< dense layers
  Linear router;                    ///< MoE layers: [E, H]
  std::vector<float> router_bias;   ///< [E], empty without
  std::vector<FfnWeights> experts;  ///< MoE layers; empty where experts stay on disk
  FfnWeights shared;                ///< MoE layers with a shared expert
};

/// The draft layer for multi-token prediction.
struct MtpWeights {
  std::vector<float> embed_norm;   ///< [H]
  std::vector<float> hidden_norm;  ///< [H]
  Linear projection;               ///< [H, 2 H]: embedding first
  LayerWeights layer;
  std::vector<float> final_norm;  ///< [H]
};

/// Immutable once loaded.
struct ModelWeights {
  /// Rows are decoded one at a time from the checkpoint, which the model keeps open; also the
  /// packed lm_head's source when tied.
  const checkpoint::StoredTensor* embed = nullptr;
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  Linear lm_head;
  std::vector<MtpWeights> mtp;  ///< as many as the description has draft layers

  size_t size_bytes() const;
};

/// Calls visit(matrix) for each matrix of a layer but its routed experts', in the default form of
/// attention.
template <typename Visit>
void ForEachLayerMatrix(const LayerWeights& layer, const Visit& visit) {
  const GroupedAttentionWeights& grouped = layer.grouped;
  const LatentAttentionWeights& latent = layer.latent;
  for (const Linear* linear :
       {&grouped.q, &grouped.k, &grouped.v, &latent.q_a, &latent.q_b, &latent.kv_a,
        &latent.indexer.q_b, &latent.indexer.k, &latent.indexer.head_weights, &layer.o,
        &layer.router, &layer.ffn.gate, &layer.ffn.up, &layer.ffn.down, &layer.shared.gate,
        &layer.shared.up, &layer.shared.down}) {
    visit(linear->weight);
  }
  for (const kernels::PackedMatrix& head : latent.key_up) visit(head);
  for (const kernels::PackedMatrix& head : latent.value_up) visit(head);
}

/// Calls visit(matrix) for each matrix of a gated FFN.
template <typename Visit>
void ForEachFfnMatrix(const FfnWeights& ffn, const Visit& visit) {
  visit(ffn.gate.weight);
  visit(ffn.up.weight);
  visit(ffn.down.weight);
}

class ExpertCatalog;
struct WeightStorage;

/// Loads everything that `description` names and `options` ask for, packed as `storage` says. With
/// `on_disk`, routed experts are left where they are and entered there. Errors name tensor,
/// expected and found.
Result<ModelWeights> LoadWeights(const checkpoint::Checkpoint& checkpoint,
                                 const ModelDescription& description, ThreadPool* pool,
                                 const LoadOptions& options, const WeightStorage& storage,
                                 ExpertCatalog* on_disk);

}  // namespace halfmoon::model
