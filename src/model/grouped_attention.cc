// SPDX-License-Identifier: Apache-2.0
#include "model/blocks.h"

namespace halfmoon::model {
namespace {

/// The model's norm of queries or keys: `heads` runs of head_dim values.
void NormHeads(const Step& step, const ModelDescription& model, const kernels::Rows& x, int heads,
               const std::vector<float>& weight) {
  const int64_t d = model.attention.head_dim;
  switch (model.attention.qk_norm) {
    case QkNorm::kNone:
      return;
    case QkNorm::kPerHead:
      return kernels::RmsNormHeads(step.stream, x, weight.data(), heads, d, model.norm_eps);
    case QkNorm::kWhole:
      return kernels::RmsNorm(step.stream, x, weight.data(), heads * d, model.norm_eps, x);
  }
}

}  // namespace

void GroupedAttention(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const AttentionDescription& attention = model.attention;
  const GroupedAttentionWeights& weights = layer.weights.grouped;
  const int64_t d = attention.head_dim;
  const kernels::Rows q = ws.q.rows(step.num_rows);
  const kernels::Rows k = ws.k.rows(step.num_rows);
  const kernels::Rows v = ws.v.rows(step.num_rows);

  ws.activations.Set(stream, ws.normed.rows(step.num_rows), model.hidden_dim, step.activation);
  const kernels::MatMulJob projections[] = {ws.activations.Job(weights.q.weight, q),
                                            ws.activations.Job(weights.k.weight, k),
                                            ws.activations.Job(weights.v.weight, v)};
  kernels::MatMul(stream, projections);
  ApplyBias(step, weights.q, q);
  ApplyBias(step, weights.k, k);
  ApplyBias(step, weights.v, v);

  NormHeads(step, model, q, attention.num_heads, weights.q_norm);
  NormHeads(step, model, k, attention.num_kv_heads, weights.k_norm);
  const float* cos = ws.cos.as<float>();
  const float* sin = ws.sin.as<float>();
  kernels::RopeHalf(stream, q, attention.num_heads, d, attention.rope.rotary_dim, cos, sin);
  kernels::RopeHalf(stream, k, attention.num_kv_heads, d, attention.rope.rotary_dim, cos, sin);

  kernels::WriteKv(stream, layer.layout, layer.kv_layer, step.sequences, k, v);
  kernels::Attention(stream, layer.layout, layer.kv_layer,
                     ShapeOf(attention, layer.description.sliding_window), step.sequences, q,
                     ws.attended.rows(step.num_rows), step.attention_scratch());
}

}  // namespace halfmoon::model
