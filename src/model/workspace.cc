// SPDX-License-Identifier: Apache-2.0
#include "model/workspace.h"

#include <algorithm>

namespace halfmoon::model {
namespace {

constexpr int64_t kFloatsPerLine = 16;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

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

ActivationBuffer::ActivationBuffer(int64_t max_rows, int64_t max_width)
    : max_rows_(max_rows), max_width_(RoundUp(max_width, kernels::kGroup)) {
  const int64_t groups = max_width_ / kernels::kGroup;
  q_ = tensor::AlignedBuffer(static_cast<size_t>(max_rows_ * max_width_));
  scale_ = tensor::AlignedBuffer(FloatBytes(max_rows_, groups));
  sum16_ = tensor::AlignedBuffer(FloatBytes(max_rows_, 2 * groups));
}

void ActivationBuffer::Set(const kernels::Stream& stream, const kernels::Rows& x, int64_t k,
                           Activation activation) {
  stream_ = &stream;
  x_ = x;
  k_ = k;
  activation_ = activation;
  quantised_ = false;
}

kernels::MatMulJob ActivationBuffer::Job(const kernels::PackedMatrix& weight,
                                         const kernels::Rows& y, int64_t first_row) {
  kernels::MatMulJob job;
  job.weight = &weight;
  job.num_rows = y.count;
  job.y = y.data;
  job.y_stride = y.stride;
  if (activation_ == Activation::kF32 || !kernels::IsIntegerFormat(weight.format())) {
    job.x.f32 = x_.row(first_row);
    job.x.stride = x_.stride;
    return job;
  }
  if (!quantised_) {
    HM_CHECK(x_.count <= max_rows_);
    HM_CHECK(k_ <= max_width_);
    kernels::QuantizeRows(
        *stream_, x_.data, x_.stride, x_.count, k_,
        {.q = q_.as<int8_t>(), .scale = scale_.as<float>(), .sum16 = sum16_.as<int32_t>()});
    quantised_ = true;
  }
  const int64_t groups = RoundUp(k_, kernels::kGroup) / kernels::kGroup;
  job.x.int8 = {.q = q_.as<int8_t>() + first_row * groups * kernels::kGroup,
                .scale = scale_.as<float>() + first_row * groups,
                .sum16 = sum16_.as<int32_t>() + first_row * 2 * groups,
                .groups = groups};
  return job;
}

kernels::MatMulJob ActivationBuffer::GatherJob(const kernels::PackedMatrix& weight,
                                               const kernels::Rows& y, const int32_t* row_index) {
  kernels::MatMulJob job = Job(weight, y);
  job.row_index = row_index;
  return job;
}

Workspace::Workspace(const ModelDescription& model, const kernels::KvLayout& layout,
                     const LoadOptions& options, int max_context, int num_threads) {
  const int64_t t = options.max_step_tokens;
  const int64_t h = model.hidden_dim;
  const AttentionDescription& attention = model.attention;
  const int64_t q_dim = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_dim = int64_t{attention.num_kv_heads} * attention.head_dim;
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
  k = RowBuffer(t, kv_dim);
  v = RowBuffer(t, kv_dim);
  attended = RowBuffer(t, q_dim);
  update = RowBuffer(t, h);
  ffn_gate = RowBuffer(ffn_rows, ffn_width);
  ffn_up = RowBuffer(ffn_rows, ffn_width);
  activations = ActivationBuffer(ffn_rows, std::max({h, q_dim, ffn_width}));
  const int64_t angles = t * (attention.rope.rotary_dim / 2);
  cos = tensor::AlignedBuffer(FloatBytes(angles, 1));
  sin = tensor::AlignedBuffer(FloatBytes(angles, 1));
  const kernels::AttentionShape shape{
      .num_heads = attention.num_heads, .head_dim = attention.head_dim, .scale = attention.scale};
  attention_scratch = tensor::AlignedBuffer(
      sizeof(float) * kernels::AttentionScratchFloats(layout, shape, t, max_context, num_threads));
  if (model.has_moe()) {
    router = RowBuffer(t, model.moe.num_experts);
    expert_out = RowBuffer(choices, h);
    expert_ids.resize(static_cast<size_t>(choices));
    expert_weights.resize(static_cast<size_t>(choices));
    groups = ExpertGroups(static_cast<size_t>(choices), model.moe.num_experts);
    jobs.reserve(2 * static_cast<size_t>(model.moe.num_experts));
  }
}

}  // namespace halfmoon::model
