// SPDX-License-Identifier: Apache-2.0
#include "model/blocks.h"
#include "model/router.h"

namespace halfmoon::model {
namespace {

kernels::Rows RowRange(const kernels::Rows& rows, int64_t begin, int64_t end) {
  return {.data = rows.row(begin), .count = end - begin, .stride = rows.stride};
}

/// Router logits, scores and choice of every token into expert_ids and expert_weights.
void Route(const Step& step, const ModelDescription& model, const LayerContext& layer,
           const kernels::Rows& normed) {
  Workspace& ws = step.workspace;
  const MoeDescription& moe = model.moe;
  const size_t e = static_cast<size_t>(moe.num_experts);
  const size_t k = static_cast<size_t>(moe.top_k);
  const kernels::Rows scores = ws.router.rows(step.num_rows);
  const kernels::Rows choice = ws.router_choice.rows(step.num_rows);
  // Float32 whatever the activation mode: a flipped choice costs far more than the few rows of the
  // gate.
  ws.activations.Set(step.stream, normed, model.hidden_dim, Activation::kF32);
  const kernels::MatMulJob gate[] = {ws.activations.Job(layer.weights.router.weight, scores)};
  kernels::MatMul(step.stream, gate);

  Capture::Router* captured = nullptr;
  if (step.capture != nullptr && step.capture->router) {
    captured = &step.capture->router_rows.emplace_back();
    captured->layer = layer.id;
    for (int64_t i = 0; i < scores.count; ++i) {
      captured->logits.insert(captured->logits.end(), scores.row(i), scores.row(i) + e);
    }
  }
  if (moe.score == ExpertScore::kSoftmax) {
    kernels::Softmax(step.stream, scores, moe.num_experts, scores);
  } else {
    kernels::Sigmoid(step.stream, scores, moe.num_experts, scores);
  }
  step.stream.pool().ParallelFor(static_cast<size_t>(step.num_rows), [&](size_t i, int) {
    const auto row = static_cast<int64_t>(i);
    ChooseExperts(moe, {scores.row(row), e}, layer.weights.router_bias, {choice.row(row), e},
                  {ws.expert_ids.data() + i * k, k}, {ws.expert_weights.data() + i * k, k});
  });
  if (captured != nullptr) {
    const auto choices = static_cast<std::ptrdiff_t>(static_cast<size_t>(step.num_rows) * k);
    captured->indices.assign(ws.expert_ids.begin(), ws.expert_ids.begin() + choices);
    captured->weights.assign(ws.expert_weights.begin(), ws.expert_weights.begin() + choices);
  }
}

/// The shared expert's part from its gate and up values: into shared_out.
void FinishSharedExpert(const Step& step, const ModelDescription& model, const FfnWeights& shared) {
  Workspace& ws = step.workspace;
  const kernels::Rows gate = ws.shared_gate.rows(step.num_rows);
  kernels::SiluMul(step.stream, gate, ws.shared_up.rows(step.num_rows), model.moe.shared_dim, gate);
  ws.activations.Set(step.stream, gate, model.moe.shared_dim, step.activation);
  const kernels::MatMulJob down[] = {
      ws.activations.Job(shared.down.weight, ws.shared_out.rows(step.num_rows))};
  kernels::MatMul(step.stream, down);
}

}  // namespace

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

void MoeBlock(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const LayerWeights& weights = layer.weights;
  const MoeDescription& moe = model.moe;
  const int64_t choices = step.num_rows * moe.top_k;
  const kernels::Rows hidden = ws.hidden.rows(step.num_rows);
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows gate = ws.ffn_gate.rows(choices);
  const kernels::Rows up = ws.ffn_up.rows(choices);
  const kernels::Rows expert_out = ws.expert_out.rows(choices);
  const kernels::Rows update = ws.update.rows(step.num_rows);

  kernels::RmsNorm(stream, hidden, weights.ffn_norm.data(), model.hidden_dim, model.norm_eps,
                   normed);
  Route(step, model, layer, normed);
  ws.groups.Group({ws.expert_ids.data(), static_cast<size_t>(choices)}, moe.top_k);

  // One queue for all experts, the shared one first as the largest: their (matrix, tile range)
  // pieces fill the pool even when each expert has few rows.
  ws.activations.Set(stream, normed, model.hidden_dim, step.activation);
  ws.jobs.clear();
  if (moe.shared_dim > 0) {
    ws.jobs.push_back(
        ws.activations.Job(weights.shared.gate.weight, ws.shared_gate.rows(step.num_rows)));
    ws.jobs.push_back(
        ws.activations.Job(weights.shared.up.weight, ws.shared_up.rows(step.num_rows)));
  }
  for (size_t e = 0; e < weights.experts.size(); ++e) {
    const int64_t begin = ws.groups.begin(e);
    const int64_t end = ws.groups.end(e);
    if (begin == end) continue;
    const int32_t* tokens = ws.groups.slot_token() + begin;
    ws.jobs.push_back(ws.activations.GatherJob(weights.experts[e].gate.weight,
                                               RowRange(gate, begin, end), tokens));
    ws.jobs.push_back(
        ws.activations.GatherJob(weights.experts[e].up.weight, RowRange(up, begin, end), tokens));
  }
  kernels::MatMul(stream, ws.jobs);
  kernels::SiluMul(stream, gate, up, moe.expert_dim, gate);

  ws.activations.Set(stream, gate, moe.expert_dim, step.activation);
  ws.jobs.clear();
  for (size_t e = 0; e < weights.experts.size(); ++e) {
    const int64_t begin = ws.groups.begin(e);
    const int64_t end = ws.groups.end(e);
    if (begin == end) continue;
    ws.jobs.push_back(ws.activations.Job(weights.experts[e].down.weight,
                                         RowRange(expert_out, begin, end), begin));
  }
  kernels::MatMul(stream, ws.jobs);
  kernels::CombineRows(stream, expert_out, ws.groups.token_slot(), ws.expert_weights.data(),
                       moe.top_k, model.hidden_dim, update);
  if (moe.shared_dim > 0) {
    FinishSharedExpert(step, model, weights.shared);
    kernels::AddRows(stream, update, ws.shared_out.rows(step.num_rows), model.hidden_dim);
  }
  kernels::AddRows(stream, hidden, update, model.hidden_dim);
}

}  // namespace halfmoon::model
