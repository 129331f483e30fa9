// SPDX-License-Identifier: Apache-2.0
#include "model/cost.h"

#include <cmath>

namespace halfmoon::model {
namespace {

/// Calls visit(matrix, share), where share is the part of the tokens, or the probability in a step,
/// that uses the matrix.
template <typename Visit>
void ForEachMatrix(const ModelWeights& weights, double expert_share, const Visit& visit) {
  for (const LayerWeights& layer : weights.layers) {
    ForEachLayerMatrix(layer, [&](const kernels::PackedMatrix& matrix) { visit(matrix, 1.0); });
    for (const FfnWeights& expert : layer.experts) {
      ForEachFfnMatrix(expert,
                       [&](const kernels::PackedMatrix& matrix) { visit(matrix, expert_share); });
    }
  }
  visit(weights.lm_head.weight, 1.0);
}

}  // namespace

Cost CostPerToken(const ModelDescription& model, const ModelWeights& weights,
                  Activation activation) {
  Cost cost;
  const double expert_share =
      model.has_moe() ? static_cast<double>(model.moe.top_k) / model.moe.num_experts : 0.0;
  ForEachMatrix(weights, expert_share, [&](const kernels::PackedMatrix& matrix, double share) {
    const double ops =
        2.0 * static_cast<double>(matrix.rows()) * static_cast<double>(matrix.cols()) * share;
    const bool int8 = activation == Activation::kInt8 && kernels::IsIntegerFormat(matrix.format());
    (int8 ? cost.int8_ops : cost.f32_flops) += ops;
  });
  return cost;
}

double WeightBytesPerStep(const ModelDescription& model, const ModelWeights& weights, int tokens) {
  const double idle =
      model.has_moe() ? 1.0 - static_cast<double>(model.moe.top_k) / model.moe.num_experts : 0.0;
  double bytes = 0.0;
  ForEachMatrix(weights, 1.0 - std::pow(idle, tokens),
                [&](const kernels::PackedMatrix& matrix, double share) {
                  bytes += static_cast<double>(matrix.size_bytes()) * share;
                });
  return bytes;
}

}  // namespace halfmoon::model
