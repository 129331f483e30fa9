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

/// Rows [first, first + count) of `rows`.
kernels::Rows RowsFrom(const kernels::Rows& rows, int64_t first, int64_t count) {
  return {.data = rows.row(first), .count = count, .stride = rows.stride};
}

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

/// Consecutive sequences of the step and the rows that they cover.
struct Run {
  std::span<const kernels::AttentionSequence> sequences;
  int64_t first_row = 0;
  int64_t num_rows = 0;
};

/// Queries move into the latent space, all heads attend over the same latent rows, and what they
/// attended to comes back through each head's value half.
void Absorbed(const Step& step, const ModelDescription& model, const LayerContext& layer,
              const Run& run, const kernels::KeySelection* selection) {
  Workspace& ws = step.workspace;
  const AttentionDescription& attention = model.attention;
  const MlaDescription& mla = attention.mla;
  const LatentAttentionWeights& weights = layer.weights.latent;
  const int64_t row = mla.latent_dim + mla.rope_dim;
  const auto of_run = [&](const RowBuffer& buffer) {
    return RowsFrom(buffer.rows(step.num_rows), run.first_row, run.num_rows);
  };
  const kernels::Rows q = of_run(ws.q);
  const kernels::Rows absorbed = of_run(ws.latent.q_absorbed);

  PerHead(step, weights.key_up, q, attention.head_dim, absorbed, row);
  step.stream.pool().ParallelFor(static_cast<size_t>(run.num_rows), [&](size_t i, int) {
    const float* from = q.row(static_cast<int64_t>(i)) + mla.nope_dim;
    float* to = absorbed.row(static_cast<int64_t>(i)) + mla.latent_dim;
    for (int head = 0; head < attention.num_heads; ++head) {
      std::memcpy(to, from, static_cast<size_t>(mla.rope_dim) * sizeof(float));
      from += attention.head_dim;
      to += row;
    }
  });
  kernels::Attention(step.stream, layer.layout, layer.kv_layer,
                     ShapeOf(attention, layer.description.sliding_window), run.sequences,
                     ws.latent.q_absorbed.rows(step.num_rows),
                     ws.latent.attended.rows(step.num_rows), step.attention_scratch(), selection);
  PerHead(step, weights.value_up, of_run(ws.latent.attended), mla.latent_dim, of_run(ws.attended),
          mla.value_dim);
}

/// Keys and values of each head are made from the cached latents.
void Expanded(const Step& step, const ModelDescription& model, const LayerContext& layer,
              const Run& run) {
  Workspace& ws = step.workspace;
  const LatentAttentionWeights& weights = layer.weights.latent;
  kernels::ExpandedAttention(
      step.stream, layer.layout, layer.kv_layer, ExpandedShapeOf(model.attention),
      {.key = weights.key, .value = weights.value_up}, run.sequences, ws.q.rows(step.num_rows),
      ws.attended.rows(step.num_rows), step.attention_scratch());
}

/// Cuts the step's sequences into parts to expand and parts to absorb, in the order of their rows.
/// What a sequence gets depends on its own chunk only. A token that sees more keys than the indexer
/// chooses is absorbed: each such query has keys of its own, so there is nothing to share an
/// expansion among.
void ChooseForms(const Step& step, const AttentionDescription& attention) {
  LatentBuffers& buffers = step.workspace.latent;
  buffers.parts.clear();
  buffers.expands.clear();
  const kernels::ExpandedShape shape = ExpandedShapeOf(attention);
  for (kernels::AttentionSequence sequence : step.sequences) {
    const int32_t dense =
        attention.indexer.num_heads == 0
            ? sequence.count
            : std::clamp(attention.indexer.top_k - sequence.start, 0, int{sequence.count});
    if (kernels::ExpansionPays(shape, dense, sequence.start)) {
      buffers.parts.push_back(sequence);
      buffers.parts.back().count = dense;
      buffers.expands.push_back(true);
      sequence.row += dense;
      sequence.start += dense;
      sequence.count -= dense;
    }
    if (sequence.count == 0) continue;
    buffers.parts.push_back(sequence);
    buffers.expands.push_back(false);
  }
}

/// Computes each run of parts in its form.
void InChosenForms(const Step& step, const ModelDescription& model, const LayerContext& layer,
                   const kernels::KeySelection* selection) {
  ChooseForms(step, model.attention);
  const LatentBuffers& buffers = step.workspace.latent;
  const std::span<const kernels::AttentionSequence> parts = buffers.parts;
  for (size_t begin = 0; begin < parts.size();) {
    size_t end = begin;
    Run run{.first_row = parts[begin].row};
    for (; end < parts.size() && buffers.expands[end] == buffers.expands[begin]; ++end) {
      run.num_rows += parts[end].count;
    }
    run.sequences = parts.subspan(begin, end - begin);
    if (buffers.expands[begin]) {
      Expanded(step, model, layer, run);
    } else {
      Absorbed(step, model, layer, run, selection);
    }
    begin = end;
  }
}

}  // namespace

void LatentAttention(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const AttentionDescription& attention = model.attention;
  const MlaDescription& mla = attention.mla;
  const LatentAttentionWeights& weights = layer.weights.latent;
  const kernels::Rows kv = ws.latent.kv.rows(step.num_rows);

  ws.activations.Set(stream, ws.normed.rows(step.num_rows), model.hidden_dim, step.activation);
  const kernels::MatMulJob down[] = {ws.activations.Job(weights.kv_a.weight, kv)};
  kernels::MatMul(stream, down);
  ApplyBias(step, weights.kv_a, kv);
  kernels::RmsNorm(stream, kv, weights.kv_a_norm.data(), mla.latent_dim, kLatentNormEps, kv);
  kernels::RopeHalf(stream, ColumnsFrom(kv, mla.latent_dim), 1, mla.rope_dim, mla.rope_dim,
                    ws.cos.as<float>(), ws.sin.as<float>());
  ProjectQueries(step, model, weights, ws.q.rows(step.num_rows));

  const bool sparse = attention.indexer.num_heads > 0;
  if (sparse) ProjectIndex(step, model, weights.indexer);
  kernels::WriteLatentKv(stream, layer.layout, layer.kv_layer, step.sequences, kv,
                         sparse ? ws.latent.index_k.rows(step.num_rows) : kernels::Rows{});
  kernels::KeySelection selection;
  if (sparse) selection = ChooseKeys(step, model, layer);

  const kernels::KeySelection* chosen = sparse ? &selection : nullptr;
  if (weights.key.empty()) {
    Absorbed(step, model, layer, {.sequences = step.sequences, .num_rows = step.num_rows}, chosen);
  } else {
    InChosenForms(step, model, layer, chosen);
  }
}

}  // namespace halfmoon::model
