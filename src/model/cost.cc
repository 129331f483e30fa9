// SPDX-License-Identifier: Apache-2.0
#include "model/cost.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "model/workspace.h"

namespace halfmoon::model {
namespace {

/// What counts of a matrix.
struct MatrixSize {
  kernels::WeightFormat format;
  double weights;  ///< rows times columns
  double bytes;
};

MatrixSize SizeOf(const kernels::PackedMatrix& matrix) {
  return {.format = matrix.format(),
          .weights = static_cast<double>(matrix.rows()) * static_cast<double>(matrix.cols()),
          .bytes = static_cast<double>(matrix.size_bytes())};
}

/// Calls visit(size, share), where share is the part of the tokens, or the probability in a step,
/// that uses the matrix.
template <typename Visit>
void ForEachMatrix(const ModelWeights& weights, const ExpertCatalog* on_disk, double expert_share,
                   const Visit& visit) {
  for (const LayerWeights& layer : weights.layers) {
    ForEachLayerMatrix(layer,
                       [&](const kernels::PackedMatrix& matrix) { visit(SizeOf(matrix), 1.0); });
    for (const FfnWeights& expert : layer.experts) {
      ForEachFfnMatrix(expert, [&](const kernels::PackedMatrix& matrix) {
        visit(SizeOf(matrix), expert_share);
      });
    }
  }
  visit(SizeOf(weights.lm_head.weight), 1.0);
  if (on_disk == nullptr) return;
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    if (!on_disk->HasLayer(static_cast<int>(layer))) continue;
    const std::span<const DiskExpert> experts = on_disk->Layer(static_cast<int>(layer));
    for (const DiskExpert& expert : experts) {
      for (const DiskMatrix& matrix : expert.matrices) {
        visit(MatrixSize{.format = matrix.format,
                         .weights = static_cast<double>(matrix.source.rows()) *
                                    static_cast<double>(matrix.source.cols()),
                         .bytes = static_cast<double>(matrix.packed_bytes)},
              expert_share);
      }
    }
  }
}

/// Σ of the keys that tokens see which have `first` .. `last` positions up to their own and see at
/// most `limit` of them; 0: all.
double KeysSeen(int64_t first, int64_t last, int64_t limit) {
  const auto sum_to = [](int64_t n) {
    return static_cast<double>(n) * (static_cast<double>(n) + 1.0) / 2.0;
  };
  if (limit <= 0 || last <= limit) return sum_to(last) - sum_to(first - 1);
  const int64_t below = std::max(first - 1, limit);
  const double limited = static_cast<double>(limit) * static_cast<double>(last - below);
  return limited + (first > limit ? 0.0 : sum_to(limit) - sum_to(first - 1));
}

}  // namespace

AttentionCost AttentionCostOf(const ModelDescription& model, const kernels::KvLayout& layout,
                              kernels::Isa isa, int64_t depth, int64_t tokens) {
  const AttentionDescription& attention = model.attention;
  const double heads = attention.num_heads;
  AttentionCost cost;
  double& flops = kernels::AttendsBf16(isa, layout) ? cost.bf16_flops : cost.f32_flops;
  for (const LayerDescription& layer : model.layers) {
    if (attention.kind == AttentionKind::kGqa) {
      const double keys = KeysSeen(depth + 1, depth + tokens, layer.sliding_window);
      flops += keys * heads * 4.0 * attention.head_dim;
      cost.kv_bytes += keys * layout.num_kv_heads *
                       static_cast<double>(layout.k_row_bytes() + layout.v_row_bytes());
      continue;
    }
    const IndexerDescription& indexer = attention.indexer;
    const double keys = KeysSeen(depth + 1, depth + tokens, indexer.top_k);
    const double width = 2.0 * attention.mla.latent_dim + attention.mla.rope_dim;
    flops += keys * heads * 2.0 * width;
    cost.kv_bytes += keys * static_cast<double>(layout.k_row_bytes());
    if (indexer.num_heads == 0) continue;
    // A token that sees no more keys than it may choose scores none.
    const double scored = KeysSeen(std::max<int64_t>(depth, indexer.top_k) + 1,
                                   std::max(depth + tokens, int64_t{indexer.top_k}), 0);
    cost.f32_flops += scored * 2.0 * indexer.num_heads * indexer.head_dim;
    cost.kv_bytes += scored * static_cast<double>(layout.index_row_bytes());
  }
  return cost;
}

Cost CostPerToken(const ModelDescription& model, const ModelWeights& weights,
                  const ExpertCatalog* on_disk, Activation activation, kernels::Isa isa) {
  Cost cost;
  const double expert_share =
      model.has_moe() ? static_cast<double>(model.moe.top_k) / model.moe.num_experts : 0.0;
  ForEachMatrix(weights, on_disk, expert_share, [&](const MatrixSize& matrix, double share) {
    const double ops = 2.0 * matrix.weights * share;
    switch (FormFor(activation, matrix.format, isa)) {
      case ActivationForm::kF32:
        cost.f32_flops += ops;
        break;
      case ActivationForm::kInt8:
        cost.int8_ops += ops;
        break;
      case ActivationForm::kBf16:
        cost.bf16_flops += ops;
        break;
    }
  });
  return cost;
}

double WeightBytesPerStep(const ModelDescription& model, const ModelWeights& weights,
                          const ExpertCatalog* on_disk, int tokens) {
  const double idle =
      model.has_moe() ? 1.0 - static_cast<double>(model.moe.top_k) / model.moe.num_experts : 0.0;
  double bytes = 0.0;
  ForEachMatrix(weights, on_disk, 1.0 - std::pow(idle, tokens),
                [&](const MatrixSize& matrix, double share) { bytes += matrix.bytes * share; });
  return bytes;
}

}  // namespace halfmoon::model
