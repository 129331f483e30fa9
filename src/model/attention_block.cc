// SPDX-License-Identifier: Apache-2.0
#include "model/blocks.h"

namespace halfmoon::model {

void ApplyBias(const Step& step, const Linear& linear, const kernels::Rows& y) {
  if (linear.bias.empty()) return;
  kernels::AddBias(step.stream, y, linear.bias.data(), static_cast<int64_t>(linear.bias.size()));
}

void AttentionBlock(const Step& step, const ModelDescription& model,
                    const kernels::KvLayout& layout, int layer, const LayerWeights& weights) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const AttentionDescription& attention = model.attention;
  const int64_t h = model.hidden_dim;
  const int64_t d = attention.head_dim;
  const kernels::Rows hidden = ws.hidden.rows(step.num_rows);
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows q = ws.q.rows(step.num_rows);
  const kernels::Rows k = ws.k.rows(step.num_rows);
  const kernels::Rows v = ws.v.rows(step.num_rows);
  const kernels::Rows attended = ws.attended.rows(step.num_rows);
  const kernels::Rows update = ws.update.rows(step.num_rows);

  kernels::RmsNorm(stream, hidden, weights.attention_norm.data(), h, model.norm_eps, normed);
  ws.activations.Set(stream, normed, h, step.activation);
  const kernels::MatMulJob projections[] = {ws.activations.Job(weights.q.weight, q),
                                            ws.activations.Job(weights.k.weight, k),
                                            ws.activations.Job(weights.v.weight, v)};
  kernels::MatMul(stream, projections);
  ApplyBias(step, weights.q, q);
  ApplyBias(step, weights.k, k);
  ApplyBias(step, weights.v, v);

  if (attention.head_norm) {
    kernels::RmsNormHeads(stream, q, weights.q_norm.data(), attention.num_heads, d, model.norm_eps);
    kernels::RmsNormHeads(stream, k, weights.k_norm.data(), attention.num_kv_heads, d,
                          model.norm_eps);
  }
  const float* cos = ws.cos.as<float>();
  const float* sin = ws.sin.as<float>();
  kernels::RopeHalf(stream, q, attention.num_heads, d, attention.rope.rotary_dim, cos, sin);
  kernels::RopeHalf(stream, k, attention.num_kv_heads, d, attention.rope.rotary_dim, cos, sin);

  kernels::WriteKv(stream, layout, layer, step.sequences, k.data, v.data, k.stride);
  const kernels::AttentionShape shape{
      .num_heads = attention.num_heads,
      .head_dim = attention.head_dim,
      .scale = attention.scale,
      .sliding_window = model.layers[static_cast<size_t>(layer)].sliding_window};
  kernels::Attention(
      stream, layout, layer, shape, step.sequences, q.data, q.stride, attended.data,
      attended.stride,
      {ws.attention_scratch.as<float>(), ws.attention_scratch.size_bytes() / sizeof(float)});

  ws.activations.Set(stream, attended, attention.num_heads * d, step.activation);
  const kernels::MatMulJob output[] = {ws.activations.Job(weights.o.weight, update)};
  kernels::MatMul(stream, output);
  ApplyBias(step, weights.o, update);
  kernels::AddRows(stream, hidden, update, h);
}

}  // namespace halfmoon::model
