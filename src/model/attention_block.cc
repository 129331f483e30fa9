// SPDX-License-Identifier: Apache-2.0
#include "model/blocks.h"

namespace halfmoon::model {

void ApplyBias(const Step& step, const Linear& linear, const kernels::Rows& y) {
  if (linear.bias.empty()) return;
  kernels::AddBias(step.stream, y, linear.bias.data(), static_cast<int64_t>(linear.bias.size()));
}

void AttentionBlock(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const LayerWeights& weights = layer.weights;
  const kernels::Rows hidden = ws.hidden.rows(step.num_rows);
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows attended = ws.attended.rows(step.num_rows);
  const kernels::Rows update = ws.update.rows(step.num_rows);

  kernels::RmsNorm(stream, hidden, weights.attention_norm.data(), model.hidden_dim, model.norm_eps,
                   normed);
  if (model.attention.kind == AttentionKind::kMla) {
    LatentAttention(step, model, layer);
  } else {
    GroupedAttention(step, model, layer);
  }
  ws.activations.Set(stream, attended, weights.o.weight.cols(), step.activation);
  const kernels::MatMulJob output[] = {ws.activations.Job(weights.o.weight, update)};
  kernels::MatMul(stream, output);
  ApplyBias(step, weights.o, update);
  kernels::AddRows(stream, hidden, update, model.hidden_dim);
}

}  // namespace halfmoon::model
