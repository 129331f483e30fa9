// SPDX-License-Identifier: Apache-2.0
#include "model/workspace.h"

#include <algorithm>
#include <numeric>

namespace halfmoon::model {
namespace {

constexpr int64_t kFloatsPerLine = 16;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// From one bfloat16 row to the next: rows of a power of two would all compete for the same lines of
// L1.
int64_t Bf16Stride(int64_t k) { return RoundUp(k, kernels::kGroup) + kernels::kGroup; }

size_t FloatBytes(int64_t rows, int64_t width) {
  return static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof(float);
}

}  // namespace

RowBuffer::RowBuffer(int64_t max_rows, int64_t width)
    : data_(FloatBytes(max_rows, RoundUp(width, kFloatsPerLine))),
      max_rows_(max_rows),
      stride_(RoundUp(width, kFloatsPerLine)) {}

kernels::Rows RowBuffer::rows(int64_t count) const {
  HM_CHECK(count <= max_rows_);
  return kernels::Rows{.data = data_.as<float>(), .count = count, .stride = stride_};
}

ActivationForm FormFor(Activation activation, kernels::WeightFormat format, kernels::Isa isa) {
  if (activation == Activation::kF32) return ActivationForm::kF32;
  if (kernels::IsIntegerFormat(format)) return ActivationForm::kInt8;
  return kernels::MultipliesBf16(isa, format) ? ActivationForm::kBf16 : ActivationForm::kF32;
}

ActivationBuffer::ActivationBuffer(int64_t max_rows, int64_t max_width, kernels::Isa isa)
    : max_rows_(max_rows), max_width_(RoundUp(max_width, kernels::kGroup)) {
  const int64_t groups = max_width_ / kernels::kGroup;
  q_ = tensor::AlignedBuffer(static_cast<size_t>(max_rows_ * max_width_));
  scale_ = tensor::AlignedBuffer(FloatBytes(max_rows_, groups));
  sum16_ = tensor::AlignedBuffer(FloatBytes(max_rows_, 2 * groups));
  if (kernels::MultipliesBf16(isa)) {
    bf16_ = tensor::AlignedBuffer(static_cast<size_t>(max_rows_ * Bf16Stride(max_width_)) *
                                  sizeof(uint16_t));
  }
}

void ActivationBuffer::Set(const kernels::Stream& stream, const kernels::Rows& x, int64_t k,
                           Activation activation) {
  stream_ = &stream;
  x_ = x;
  k_ = k;
  activation_ = activation;
  quantised_ = false;
  rounded_ = false;
}

void ActivationBuffer::Quantise() {
  if (quantised_) return;
  HM_CHECK(x_.count <= max_rows_);
  HM_CHECK(k_ <= max_width_);
  kernels::QuantizeRows(
      *stream_, x_.data, x_.stride, x_.count, k_,
      {.q = q_.as<int8_t>(), .scale = scale_.as<float>(), .sum16 = sum16_.as<int32_t>()});
  quantised_ = true;
}

void ActivationBuffer::Round() {
  if (rounded_) return;
  HM_CHECK(x_.count <= max_rows_);
  HM_CHECK(k_ <= max_width_);
  kernels::RoundRows(*stream_, x_.data, x_.stride, x_.count, k_, bf16_.as<uint16_t>(),
                     Bf16Stride(k_));
  rounded_ = true;
}

kernels::MatMulJob ActivationBuffer::Job(const kernels::PackedMatrix& weight,
                                         const kernels::Rows& y, int64_t first_row) {
  kernels::MatMulJob job;
  job.weight = &weight;
  job.num_rows = y.count;
  job.y = y.data;
  job.y_stride = y.stride;
  switch (FormFor(activation_, weight.format(), stream_->isa())) {
    case ActivationForm::kF32:
      job.x.f32 = x_.row(first_row);
      job.x.stride = x_.stride;
      break;
    case ActivationForm::kInt8: {
      Quantise();
      const int64_t groups = RoundUp(k_, kernels::kGroup) / kernels::kGroup;
      job.x.int8 = {.q = q_.as<int8_t>() + first_row * groups * kernels::kGroup,
                    .scale = scale_.as<float>() + first_row * groups,
                    .sum16 = sum16_.as<int32_t>() + first_row * 2 * groups,
                    .groups = groups};
      break;
    }
    case ActivationForm::kBf16: {
      Round();
      const int64_t stride = Bf16Stride(k_);
      job.x.bf16 = {.x = bf16_.as<uint16_t>() + first_row * stride, .stride = stride};
      break;
    }
  }
  return job;
}

kernels::MatMulJob ActivationBuffer::GatherJob(const kernels::PackedMatrix& weight,
                                               const kernels::Rows& y, const int32_t* row_index) {
  kernels::MatMulJob job = Job(weight, y);
  job.row_index = row_index;
  return job;
}

kernels::AttentionShape ShapeOf(const AttentionDescription& attention, int sliding_window) {
  const bool latent = attention.kind == AttentionKind::kMla;
  return {
      .num_heads = attention.num_heads,
      .head_dim = latent ? attention.mla.latent_dim + attention.mla.rope_dim : attention.head_dim,
      .scale = attention.scale,
      .sliding_window = sliding_window};
}

kernels::ExpandedShape ExpandedShapeOf(const AttentionDescription& attention) {
  const MlaDescription& mla = attention.mla;
  return {.num_heads = attention.num_heads,
          .latent_dim = mla.latent_dim,
          .nope_dim = mla.nope_dim,
          .rope_dim = mla.rope_dim,
          .value_dim = mla.value_dim,
          .scale = attention.scale};
}

kernels::KvLayout LayoutOf(const ModelDescription& model, const LoadOptions& options,
                           int num_layers) {
  const AttentionDescription& attention = model.attention;
  kernels::KvLayout layout{.num_layers = num_layers,
                           .num_kv_heads = attention.num_kv_heads,
                           .head_dim = attention.head_dim,
                           .block_size = options.block_size,
                           .k_type = options.kv_k_type(),
                           .v_type = options.kv_v_type()};
  if (attention.kind == AttentionKind::kMla) {
    layout.kind = kernels::KvKind::kLatent;
    layout.num_kv_heads = 1;
    layout.head_dim = attention.mla.latent_dim + attention.mla.rope_dim;
    layout.value_dim = attention.mla.latent_dim;
    layout.index_dim = attention.indexer.num_heads > 0 ? attention.indexer.head_dim : 0;
  }
  return layout;
}

LatentBuffers::LatentBuffers(const AttentionDescription& attention, const LoadOptions& options,
                             int max_context) {
  const MlaDescription& mla = attention.mla;
  const int64_t max_rows = options.max_step_tokens;
  const int64_t heads = attention.num_heads;
  const int64_t row = mla.latent_dim + mla.rope_dim;
  q_rank = RowBuffer(max_rows, mla.q_rank);
  kv = RowBuffer(max_rows, row);
  q_absorbed = RowBuffer(max_rows, heads * row);
  attended = RowBuffer(max_rows, heads * mla.latent_dim);
  const auto max_parts = static_cast<size_t>(2 * options.max_sequences);
  parts.reserve(max_parts);
  expands.reserve(max_parts);
  const IndexerDescription& indexer = attention.indexer;
  if (indexer.num_heads == 0) return;
  index_q = RowBuffer(max_rows, int64_t{indexer.num_heads} * indexer.head_dim);
  index_k = RowBuffer(max_rows, indexer.head_dim);
  index_w = RowBuffer(max_rows, indexer.num_heads);
  chosen.resize(static_cast<size_t>(max_rows) *
                static_cast<size_t>(std::min(indexer.top_k, max_context)));
  chosen_count.resize(static_cast<size_t>(max_rows));
  index_scratch =
      tensor::AlignedBuffer(sizeof(float) * kernels::IndexerScratchFloats(max_rows, max_context));
}

Workspace::Workspace(const ModelDescription& model, const kernels::KvLayout& layout,
                     const LoadOptions& options, int max_context, int num_threads) {
  const int64_t t = options.max_step_tokens;
  const int64_t h = model.hidden_dim;
  const AttentionDescription& attention = model.attention;
  const bool is_latent = attention.kind == AttentionKind::kMla;
  const int64_t q_dim = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_dim = int64_t{attention.num_kv_heads} * attention.head_dim;
  const int64_t attended_dim =
      is_latent ? int64_t{attention.num_heads} * attention.mla.value_dim : q_dim;
  const bool has_dense =
      std::any_of(model.layers.begin(), model.layers.end(),
                  [](const LayerDescription& layer) { return layer.ffn == FfnKind::kDense; });
  const int64_t choices = model.has_moe() ? t * model.moe.top_k : 0;
  const int64_t dense_dim = has_dense ? model.ffn_dim : 0;
  const int64_t expert_dim = model.has_moe() ? model.moe.expert_dim : 0;
  const int64_t ffn_rows = std::max(t, choices);
  const int64_t ffn_width = std::max(dense_dim, expert_dim);

  hidden = RowBuffer(t, h);
  normed = RowBuffer(t, h);
  q = RowBuffer(t, q_dim);
  attended = RowBuffer(t, attended_dim);
  if (is_latent) {
    latent = LatentBuffers(attention, options, max_context);
  } else {
    k = RowBuffer(t, kv_dim);
    v = RowBuffer(t, kv_dim);
  }
  update = RowBuffer(t, h);
  ffn_gate = RowBuffer(ffn_rows, ffn_width);
  ffn_up = RowBuffer(ffn_rows, ffn_width);
  const int64_t wide = std::max({model.num_mtp_layers > 0 ? 2 * h : h, attended_dim, dense_dim,
                                 int64_t{model.moe.shared_dim}, int64_t{attention.mla.q_rank}});
  activations = ActivationBuffer(std::max(t, choices), std::max(wide, expert_dim), options.isa);
  const int64_t angles = t * (attention.rope.rotary_dim / 2);
  cos = tensor::AlignedBuffer(FloatBytes(angles, 1));
  sin = tensor::AlignedBuffer(FloatBytes(angles, 1));
  size_t scratch_floats =
      kernels::AttentionScratchFloats(layout, ShapeOf(attention, 0), t, max_context, num_threads);
  if (options.mla_prefill == MlaPrefill::kExpanded) {
    scratch_floats = std::max(
        scratch_floats, kernels::ExpandedScratchFloats(ExpandedShapeOf(attention), t, num_threads));
  }
  attention_scratch = tensor::AlignedBuffer(sizeof(float) * scratch_floats);
  if (model.has_moe()) {
    router = RowBuffer(t, model.moe.num_experts);
    router_choice = RowBuffer(t, model.moe.num_experts);
    expert_out = RowBuffer(choices, h);
    expert_ids.resize(static_cast<size_t>(choices));
    expert_weights.resize(static_cast<size_t>(choices));
    all_experts.resize(static_cast<size_t>(model.moe.num_experts));
    std::iota(all_experts.begin(), all_experts.end(), 0);
    foretold.ids.resize(static_cast<size_t>(model.moe.top_k));
    foretold.weights.resize(static_cast<size_t>(model.moe.top_k));
    foretold.votes.resize(static_cast<size_t>(model.moe.num_experts));
    foretold.ranked.reserve(static_cast<size_t>(model.moe.num_experts));
    groups = ExpertGroups(static_cast<size_t>(choices), model.moe.num_experts);
    if (model.moe.shared_dim > 0) {
      shared_gate = RowBuffer(t, model.moe.shared_dim);
      shared_up = RowBuffer(t, model.moe.shared_dim);
      shared_out = RowBuffer(t, h);
    }
  }
  jobs.reserve(static_cast<size_t>(
      std::max(2 * model.moe.num_experts + 2, is_latent ? attention.num_heads : 0)));
}

}  // namespace halfmoon::model
