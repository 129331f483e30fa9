// SPDX-License-Identifier: Apache-2.0
#include "model/cost.h"

#include <cmath>

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

}  // namespace

Cost CostPerToken(const ModelDescription& model, const ModelWeights& weights,
                  const ExpertCatalog* on_disk, Activation activation) {
  Cost cost;
  const double expert_share =
      model.has_moe() ? static_cast<double>(model.moe.top_k) / model.moe.num_experts : 0.0;
  ForEachMatrix(weights, on_disk, expert_share, [&](const MatrixSize& matrix, double share) {
    const double ops = 2.0 * matrix.weights * share;
    const bool int8 = activation == Activation::kInt8 && kernels::IsIntegerFormat(matrix.format);
    (int8 ? cost.int8_ops : cost.f32_flops) += ops;
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
