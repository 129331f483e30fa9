// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/indexer.h"
#include "model/blocks.h"

namespace halfmoon::model {
namespace {

// The reference norms the query and key latents, and the index keys, with this whatever the model's
// own epsilon (models.md 4 and 5).
constexpr float kLatentNormEps = 1e-6f;

/// Columns [first, ..) of `rows`.
kernels::Rows ColumnsFrom(const kernels::Rows& rows, int64_t first) {
  return {.data = rows.data + first, .count = rows.count, .stride = rows.stride};
}

/// Queries [T, N (dn + dr)], rotated; leaves the query latents in q_rank for the indexer.
void ProjectQueries(const Step& step, const ModelDescription& model,
                    const LatentAttentionWeights& weights, const kernels::Rows& q) {
  Workspace& ws = step.workspace;
  const MlaDescription& mla = model.attention.mla;
  if (mla.q_rank > 0) {
    const kernels::Rows rank = ws.latent.q_rank.rows(step.num_rows);
    const kernels::MatMulJob down[] = {ws.activations.Job(weights.q_a.weight, rank)};
    kernels::MatMul(step.stream, down);
    ApplyBias(step, weights.q_a, rank);
    kernels::RmsNorm(step.stream, rank, weights.q_a_norm.data(), mla.q_rank, kLatentNormEps, rank);
    ws.activations.Set(step.stream, rank, mla.q_rank, step.activation);
  }
  const kernels::MatMulJob up[] = {ws.activations.Job(weights.q_b.weight, q)};
  kernels::MatMul(step.stream, up);
  kernels::RopeHalf(step.stream, ColumnsFrom(q, mla.nope_dim), model.attention.num_heads,
                    model.attention.head_dim, mla.rope_dim, ws.cos.as<float>(), ws.sin.as<float>());
}

/// Keeps the indexer's scores and choices of the step for `halfmoon logits --capture`.
struct IndexerCapture {
  Capture::Indexer* to = nullptr;

  IndexerCapture(const Step& step, int layer) {
    if (step.capture == nullptr || !step.capture->indexer) return;
    to = &step.capture->indexer_rows.emplace_back();
    to->layer = layer;
    for (const kernels::AttentionSequence& s : step.sequences) {
      to->width = std::max<int64_t>(to->width, s.start + s.count);
    }
    to->scores.assign(static_cast<size_t>(step.num_rows * to->width),
                      -std::numeric_limits<float>::infinity());
  }

  void KeepChoices(const LatentBuffers& buffers, int64_t rows, int64_t stride, int top_k) const {
    if (to == nullptr) return;
    to->top_k.assign(static_cast<size_t>(rows * top_k), -1);
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(buffers.chosen.begin() + i * stride, buffers.chosen_count[static_cast<size_t>(i)],
                  to->top_k.begin() + i * top_k);
    }
  }
};

/// The indexer's queries, keys and head weights of the step's tokens.
void ProjectIndex(const Step& step, const ModelDescription& model, const IndexerWeights& weights) {
  Workspace& ws = step.workspace;
  const IndexerDescription& indexer = model.attention.indexer;
  const int rotary = model.attention.mla.rope_dim;
  const float* cos = ws.cos.as<float>();
  const float* sin = ws.sin.as<float>();
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows q = ws.latent.index_q.rows(step.num_rows);
  const kernels::Rows k = ws.latent.index_k.rows(step.num_rows);
  const kernels::Rows w = ws.latent.index_w.rows(step.num_rows);

  // Float32 whatever the activation mode, as for routers: another choice of keys costs far more
  // than these few rows.
  ws.activations.Set(step.stream, ws.latent.q_rank.rows(step.num_rows), model.attention.mla.q_rank,
                     Activation::kF32);
  const kernels::MatMulJob query[] = {ws.activations.Job(weights.q_b.weight, q)};
  kernels::MatMul(step.stream, query);
  ws.activations.Set(step.stream, normed, model.hidden_dim, Activation::kF32);
  const kernels::MatMulJob key[] = {ws.activations.Job(weights.k.weight, k),
                                    ws.activations.Job(weights.head_weights.weight, w)};
  kernels::MatMul(step.stream, key);
  kernels::LayerNorm(step.stream, k, weights.k_norm.data(), weights.k_norm_bias.data(),
                     indexer.head_dim, kLatentNormEps, k);
  kernels::RopeHalf(step.stream, q, indexer.num_heads, indexer.head_dim, rotary, cos, sin);
  kernels::RopeHalf(step.stream, k, 1, indexer.head_dim, rotary, cos, sin);
}

kernels::KeySelection ChooseKeys(const Step& step, const ModelDescription& model,
                                 const LayerContext& layer) {
  LatentBuffers& buffers = step.workspace.latent;
  const IndexerDescription& indexer = model.attention.indexer;
  const auto stride = static_cast<int64_t>(buffers.chosen.size() / buffers.chosen_count.size());
  const IndexerCapture capture(step, layer.id);
  // w(t) carries a factor of nI^-0.5 (models.md 5); relu lets it move into the scale of q·k.
  const double scale = 1.0 / std::sqrt(static_cast<double>(indexer.head_dim) * indexer.num_heads);
  const kernels::IndexerShape shape{.num_heads = indexer.num_heads,
                                    .head_dim = indexer.head_dim,
                                    .scale = static_cast<float>(scale),
                                    .top_k = indexer.top_k};
  kernels::ChooseKeys(
      step.stream, layer.layout, layer.kv_layer, shape, step.sequences,
      buffers.index_q.rows(step.num_rows), buffers.index_w.rows(step.num_rows),
      {.positions = buffers.chosen.data(),
       .counts = buffers.chosen_count.data(),
       .stride = stride,
       .scores = capture.to == nullptr ? nullptr : capture.to->scores.data(),
       .scores_stride = capture.to == nullptr ? 0 : capture.to->width},
      {buffers.index_scratch.as<float>(), buffers.index_scratch.size_bytes() / sizeof(float)});
  capture.KeepChoices(buffers, step.num_rows, stride, indexer.top_k);
  return {
      .positions = buffers.chosen.data(), .counts = buffers.chosen_count.data(), .stride = stride};
}

/// One product a head: rows of `x` from column head * x_step, into `y` from column head * y_step.
void PerHead(const Step& step, const std::vector<kernels::PackedMatrix>& heads,
             const kernels::Rows& x, int64_t x_step, const kernels::Rows& y, int64_t y_step) {
  Workspace& ws = step.workspace;
  ws.jobs.clear();
  for (size_t head = 0; head < heads.size(); ++head) {
    const auto h = static_cast<int64_t>(head);
    // Float32 whatever the activation mode: columns of a head are not whole quantisation groups in
    // every model, and these products are a small part of a layer.
    ws.activations.Set(step.stream, ColumnsFrom(x, h * x_step), heads[head].cols(),
                       Activation::kF32);
    ws.jobs.push_back(ws.activations.Job(heads[head], ColumnsFrom(y, h * y_step)));
  }
  kernels::MatMul(step.stream, ws.jobs);
}

}  // namespace

void LatentAttention(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const AttentionDescription& attention = model.attention;
  const MlaDescription& mla = attention.mla;
  const LatentAttentionWeights& weights = layer.weights.latent;
  const int64_t row = mla.latent_dim + mla.rope_dim;
  const kernels::Rows q = ws.q.rows(step.num_rows);
  const kernels::Rows kv = ws.latent.kv.rows(step.num_rows);
  const kernels::Rows absorbed = ws.latent.q_absorbed.rows(step.num_rows);
  const kernels::Rows attended = ws.latent.attended.rows(step.num_rows);

  ws.activations.Set(stream, ws.normed.rows(step.num_rows), model.hidden_dim, step.activation);
  const kernels::MatMulJob down[] = {ws.activations.Job(weights.kv_a.weight, kv)};
  kernels::MatMul(stream, down);
  ApplyBias(step, weights.kv_a, kv);
  kernels::RmsNorm(stream, kv, weights.kv_a_norm.data(), mla.latent_dim, kLatentNormEps, kv);
  kernels::RopeHalf(stream, ColumnsFrom(kv, mla.latent_dim), 1, mla.rope_dim, mla.rope_dim,
                    ws.cos.as<float>(), ws.sin.as<float>());
  ProjectQueries(step, model, weights, q);

  const bool sparse = attention.indexer.num_heads > 0;
  if (sparse) ProjectIndex(step, model, weights.indexer);
  kernels::WriteLatentKv(stream, layer.layout, layer.kv_layer, step.sequences, kv,
                         sparse ? ws.latent.index_k.rows(step.num_rows) : kernels::Rows{});
  kernels::KeySelection selection;
  if (sparse) selection = ChooseKeys(step, model, layer);

  PerHead(step, weights.key_up, q, attention.head_dim, absorbed, row);
  stream.pool().ParallelFor(static_cast<size_t>(step.num_rows), [&](size_t i, int) {
    const float* from = q.row(static_cast<int64_t>(i)) + mla.nope_dim;
    float* to = absorbed.row(static_cast<int64_t>(i)) + mla.latent_dim;
    for (int head = 0; head < attention.num_heads; ++head) {
      std::memcpy(to, from, static_cast<size_t>(mla.rope_dim) * sizeof(float));
      from += attention.head_dim;
      to += row;
    }
  });
  kernels::Attention(stream, layer.layout, layer.kv_layer,
                     ShapeOf(attention, layer.description.sliding_window), step.sequences, absorbed,
                     attended, step.attention_scratch(), sparse ? &selection : nullptr);
  PerHead(step, weights.value_up, attended, mla.latent_dim, ws.attended.rows(step.num_rows),
          mla.value_dim);
}

}  // namespace halfmoon::model
