// SPDX-License-Identifier: Apache-2.0
// Buffers of a step, sized once from the limits, and the small glue between blocks and kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/rowwise.h"
#include "model/model.h"
#include "model/router.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace halfmoon::model {

/// Room for rows of floats, each row starting on a 64-byte border.
class RowBuffer {
 public:
  RowBuffer() = default;
  RowBuffer(int64_t max_rows, int64_t width);
  kernels::Rows rows(int64_t count) const;

 private:
  mutable tensor::AlignedBuffer data_;
  int64_t max_rows_ = 0;
  int64_t stride_ = 0;
};

/// The input of the matmuls at hand, in the forms they take: float rows, and int8 rows, made when
/// the first job asks for them.
class ActivationBuffer {
 public:
  ActivationBuffer() = default;
  /// int8 room for max_rows rows of up to max_width values.
  ActivationBuffer(int64_t max_rows, int64_t max_width);

  /// Makes `x` (k wide) the current activations; x stays as it is until the jobs made from it have
  /// run.
  void Set(const kernels::Stream& stream, const kernels::Rows& x, int64_t k, Activation activation);

  /// A product with `weight` into y, whose rows come from activation rows first_row, first_row + 1,
  /// ...
  kernels::MatMulJob Job(const kernels::PackedMatrix& weight, const kernels::Rows& y,
                         int64_t first_row = 0);
  /// The same with y's row i coming from activation row row_index[i].
  kernels::MatMulJob GatherJob(const kernels::PackedMatrix& weight, const kernels::Rows& y,
                               const int32_t* row_index);

 private:
  tensor::AlignedBuffer q_, scale_, sum16_;
  int64_t max_rows_ = 0;
  int64_t max_width_ = 0;
  const kernels::Stream* stream_ = nullptr;  // of the current step
  kernels::Rows x_;
  int64_t k_ = 0;
  Activation activation_ = Activation::kF32;
  bool quantised_ = false;
};

/// All buffers of Forward.
struct Workspace {
  Workspace(const ModelDescription& model, const kernels::KvLayout& layout,
            const LoadOptions& options, int max_context, int num_threads);

  RowBuffer hidden;            ///< residual stream [T, H]
  RowBuffer normed;            ///< [T, H]
  RowBuffer q;                 ///< [T, N D]
  RowBuffer k, v;              ///< [T, G D], same stride
  RowBuffer attended;          ///< [T, N D]
  RowBuffer update;            ///< [T, H]: what a block adds to the residual stream
  RowBuffer ffn_gate, ffn_up;  ///< [T, F] or, in MoE layers, [T K, F]
  RowBuffer expert_out;        ///< [T K, H]
  RowBuffer router;            ///< [T, E]
  ActivationBuffer activations;
  tensor::AlignedBuffer cos, sin;  ///< [T, rotary_dim / 2] f32
  tensor::AlignedBuffer attention_scratch;
  std::vector<int32_t> expert_ids;    ///< [T, K] chosen, ascending within a token
  std::vector<float> expert_weights;  ///< [T, K]
  ExpertGroups groups;
  std::vector<kernels::MatMulJob> jobs;
};

/// What a block needs to know of the step.
struct Step {
  const kernels::Stream& stream;
  Workspace& workspace;
  Activation activation = Activation::kF32;
  int64_t num_rows = 0;  ///< T
  std::span<const kernels::AttentionSequence> sequences;
  Capture* capture = nullptr;
};

}  // namespace halfmoon::model
