// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <span>

#include "model/blocks.h"
#include "model/expert_store.h"
#include "model/router.h"

namespace halfmoon::model {
namespace {

// The next layer's experts are foretold from this many of a step's rows at most: a longer step is a
// prompt, which uses about all experts of every layer anyway.
constexpr int64_t kForetoldRows = 16;

kernels::Rows RowRange(const kernels::Rows& rows, int64_t begin, int64_t end) {
  return {.data = rows.row(begin), .count = end - begin, .stride = rows.stride};
}

/// Scores of all experts from the router's logits, in place.
void Score(const kernels::Stream& stream, const MoeDescription& moe, const kernels::Rows& scores) {
  if (moe.score == ExpertScore::kSoftmax) {
    kernels::Softmax(stream, scores, moe.num_experts, scores);
  } else {
    kernels::Sigmoid(stream, scores, moe.num_experts, scores);
  }
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
  Score(step.stream, moe, scores);
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

/// Tells the store which experts the next MoE layer is likely to use: those that its router chooses
/// for what is known of its input before this layer has added its part.
void ForetellNext(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  if (layer.next_moe == nullptr || !step.experts->CanPrefetch(layer.next_moe_id)) return;
  Workspace& ws = step.workspace;
  const MoeDescription& moe = model.moe;
  const int64_t num_rows = std::min(step.num_rows, kForetoldRows);
  const auto e = static_cast<size_t>(moe.num_experts);
  const auto k = static_cast<size_t>(moe.top_k);
  // Buffers that this layer has read already, or not yet written.
  const kernels::Rows hidden = ws.hidden.rows(num_rows);
  const kernels::Rows normed = ws.update.rows(num_rows);
  const kernels::Rows scores = ws.router.rows(num_rows);
  const kernels::Rows choice = ws.router_choice.rows(num_rows);
  kernels::RmsNorm(step.stream, hidden, layer.next_moe->ffn_norm.data(), model.hidden_dim,
                   model.norm_eps, normed);
  ws.activations.Set(step.stream, normed, model.hidden_dim, Activation::kF32);
  const kernels::MatMulJob gate[] = {ws.activations.Job(layer.next_moe->router.weight, scores)};
  kernels::MatMul(step.stream, gate);
  Score(step.stream, moe, scores);
  ForetoldExperts& foretold = ws.foretold;
  std::ranges::fill(foretold.votes, 0.0f);
  for (int64_t row = 0; row < num_rows; ++row) {
    ChooseExperts(moe, {scores.row(row), e}, layer.next_moe->router_bias, {choice.row(row), e},
                  {foretold.ids.data(), k}, {foretold.weights.data(), k});
    for (size_t i = 0; i < k; ++i) {
      foretold.votes[static_cast<size_t>(foretold.ids[i])] += foretold.weights[i];
    }
  }
  foretold.ranked.clear();
  for (size_t i = 0; i < e; ++i) {
    if (foretold.votes[i] > 0.0f) foretold.ranked.push_back(static_cast<int32_t>(i));
  }
  const auto votes = [&](int32_t expert) { return foretold.votes[static_cast<size_t>(expert)]; };
  std::ranges::sort(foretold.ranked, [&](int32_t a, int32_t b) {
    return votes(a) != votes(b) ? votes(a) > votes(b) : a < b;
  });
  step.experts->Foretell(layer.next_moe_id, foretold.ranked);
}

/// Experts that are computed together: their rows are [begin, end) of the grouped slots.
struct ExpertRound {
  std::span<const int32_t> experts;
  int64_t begin = 0;
  int64_t end = 0;
  bool with_shared = false;  ///< gate and up of the shared expert too
};

const FfnWeights& ExpertOf(const Step& step, const LayerContext& layer, int32_t e) {
  return step.experts != nullptr ? step.experts->expert(e)
                                 : layer.weights.experts[static_cast<size_t>(e)];
}

/// Rows [begin, end) of expert_out, and shared_gate and shared_up with `with_shared`, from
/// ws.normed.
void RunExperts(const Step& step, const ModelDescription& model, const LayerContext& layer,
                const ExpertRound& round) {
  Workspace& ws = step.workspace;
  const MoeDescription& moe = model.moe;
  const int64_t choices = step.num_rows * moe.top_k;
  const kernels::Rows gate = ws.ffn_gate.rows(choices);
  const kernels::Rows up = ws.ffn_up.rows(choices);
  const kernels::Rows expert_out = ws.expert_out.rows(choices);

  // One queue for all experts, the shared one first as the largest: their (matrix, tile range)
  // pieces fill the pool even when each expert has few rows.
  ws.activations.Set(step.stream, ws.normed.rows(step.num_rows), model.hidden_dim, step.activation);
  ws.jobs.clear();
  if (round.with_shared) {
    const FfnWeights& shared = layer.weights.shared;
    ws.jobs.push_back(ws.activations.Job(shared.gate.weight, ws.shared_gate.rows(step.num_rows)));
    ws.jobs.push_back(ws.activations.Job(shared.up.weight, ws.shared_up.rows(step.num_rows)));
  }
  for (const int32_t e : round.experts) {
    const int64_t begin = ws.groups.begin(static_cast<size_t>(e));
    const int64_t end = ws.groups.end(static_cast<size_t>(e));
    if (begin == end) continue;
    const FfnWeights& expert = ExpertOf(step, layer, e);
    const int32_t* tokens = ws.groups.slot_token() + begin;
    ws.jobs.push_back(
        ws.activations.GatherJob(expert.gate.weight, RowRange(gate, begin, end), tokens));
    ws.jobs.push_back(ws.activations.GatherJob(expert.up.weight, RowRange(up, begin, end), tokens));
  }
  kernels::MatMul(step.stream, ws.jobs);
  if (round.begin == round.end) return;
  const kernels::Rows inner = RowRange(gate, round.begin, round.end);
  kernels::SiluMul(step.stream, inner, RowRange(up, round.begin, round.end), moe.expert_dim, inner);

  ws.activations.Set(step.stream, inner, moe.expert_dim, step.activation);
  ws.jobs.clear();
  for (const int32_t e : round.experts) {
    const int64_t begin = ws.groups.begin(static_cast<size_t>(e));
    const int64_t end = ws.groups.end(static_cast<size_t>(e));
    if (begin == end) continue;
    ws.jobs.push_back(ws.activations.Job(ExpertOf(step, layer, e).down.weight,
                                         RowRange(expert_out, begin, end), begin - round.begin));
  }
  kernels::MatMul(step.stream, ws.jobs);
}

/// All experts that the step's tokens chose, from disk: those in memory are computed while the
/// others are read. Each row has an expert of its own weights and each token sums its rows in one
/// order, so rounds change no bits.
Status RunExpertsFromDisk(const Step& step, const ModelDescription& model,
                          const LayerContext& layer) {
  Workspace& ws = step.workspace;
  ExpertStore& store = *step.experts;
  ForetellNext(step, model, layer);
  for (size_t i = 0; i < store.num_rounds(); ++i) {
    HM_ASSIGN(const std::span<const int32_t> experts, store.Fetch(i));
    const bool with_shared = i == 0 && model.moe.shared_dim > 0;
    if (experts.empty() && !with_shared) continue;
    ExpertRound round{.experts = experts, .with_shared = with_shared};
    if (!experts.empty()) {
      round.begin = ws.groups.begin(static_cast<size_t>(experts.front()));
      round.end = ws.groups.end(static_cast<size_t>(experts.back()));
    }
    RunExperts(step, model, layer, round);
  }
  return {};
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

Status MoeBlock(const Step& step, const ModelDescription& model, const LayerContext& layer) {
  const kernels::Stream& stream = step.stream;
  Workspace& ws = step.workspace;
  const LayerWeights& weights = layer.weights;
  const MoeDescription& moe = model.moe;
  const int64_t choices = step.num_rows * moe.top_k;
  const std::span<const int32_t> chosen(ws.expert_ids.data(), static_cast<size_t>(choices));
  const kernels::Rows hidden = ws.hidden.rows(step.num_rows);
  const kernels::Rows normed = ws.normed.rows(step.num_rows);
  const kernels::Rows update = ws.update.rows(step.num_rows);

  kernels::RmsNorm(stream, hidden, weights.ffn_norm.data(), model.hidden_dim, model.norm_eps,
                   normed);
  Route(step, model, layer, normed);
  if (step.experts != nullptr) {
    step.experts->Begin(layer.id, chosen);
    ws.groups.Group(chosen, moe.top_k, step.experts->order());
    HM_TRY(RunExpertsFromDisk(step, model, layer));
  } else {
    ws.groups.Group(chosen, moe.top_k);
    RunExperts(
        step, model, layer,
        {.experts = ws.all_experts, .begin = 0, .end = choices, .with_shared = moe.shared_dim > 0});
  }
  kernels::CombineRows(stream, ws.expert_out.rows(choices), ws.groups.token_slot(),
                       ws.expert_weights.data(), moe.top_k, model.hidden_dim, update);
  if (moe.shared_dim > 0) {
    FinishSharedExpert(step, model, weights.shared);
    kernels::AddRows(stream, update, ws.shared_out.rows(step.num_rows), model.hidden_dim);
  }
  kernels::AddRows(stream, hidden, update, model.hidden_dim);
  return {};
}

}  // namespace halfmoon::model
