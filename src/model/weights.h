// SPDX-License-Identifier: Apache-2.0
// Weights of a model in kernel layout, and how they get there from a checkpoint.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "kernels/packed_matrix.h"
#include "model/description.h"

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

struct LayerWeights {
  std::vector<float> attention_norm;  ///< [H]
  Linear q, k, v, o;
  std::vector<float> q_norm, k_norm;  ///< [D], empty without head norms
  std::vector<float> ffn_norm;        ///< [H]
  FfnWeights ffn;                     ///< dense layers
  Linear router;                      ///< MoE layers: [E, H]
  std::vector<FfnWeights> experts;    ///< MoE layers
};

/// Immutable once loaded.
struct ModelWeights {
  /// Rows are decoded one at a time from the checkpoint, which the model keeps open; also the
  /// packed lm_head's source when tied.
  const checkpoint::StoredTensor* embed = nullptr;
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  Linear lm_head;

  size_t size_bytes() const;
};

/// Loads and packs everything that `description` names. Errors name tensor, expected and found.
Result<ModelWeights> LoadWeights(const checkpoint::Checkpoint& checkpoint,
                                 const ModelDescription& description, ThreadPool* pool,
                                 const std::function<void(size_t done, size_t total)>& progress);

}  // namespace halfmoon::model
