// SPDX-License-Identifier: Apache-2.0
#include "model/blocks.h"

namespace halfmoon::model {

void DenseFfnBlock(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const LayerWeights& weights = layer.weights;
  const FfnWeights& ffn = weights.ffn;
  const kernels::Rows hidden = ws.hidden.rows(step.num_rows);
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows gate = ws.ffn_gate.rows(step.num_rows);
  const kernels::Rows up = ws.ffn_up.rows(step.num_rows);
  const kernels::Rows update = ws.update.rows(step.num_rows);

  kernels::RmsNorm(stream, hidden, weights.ffn_norm.data(), model.hidden_dim, model.norm_eps,
                   normed);
  ws.activations.Set(stream, normed, model.hidden_dim, step.activation);
  const kernels::MatMulJob in[] = {ws.activations.Job(ffn.gate.weight, gate),
                                   ws.activations.Job(ffn.up.weight, up)};
  kernels::MatMul(stream, in);
  ApplyBias(step, ffn.gate, gate);
  ApplyBias(step, ffn.up, up);
  kernels::SiluMul(stream, gate, up, model.ffn_dim, gate);
  ws.activations.Set(stream, gate, model.ffn_dim, step.activation);
  const kernels::MatMulJob out[] = {ws.activations.Job(ffn.down.weight, update)};
  kernels::MatMul(stream, out);
  ApplyBias(step, ffn.down, update);
  kernels::AddRows(stream, hidden, update, model.hidden_dim);
}

}  // namespace halfmoon::model
