// SPDX-License-Identifier: Apache-2.0
// Buffers of a step, sized once from the limits, and the small glue between blocks and kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/expanded_attention.h"
#include "kernels/indexer.h"
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

/// The forms of activations that products take.
enum class ActivationForm { kF32, kInt8, kBf16 };

/// Which one products with weights of `format` take.
ActivationForm FormFor(Activation activation, kernels::WeightFormat format, kernels::Isa isa);

/// The input of the matmuls at hand, in the forms they take: float rows, and int8 and bfloat16
/// rows, each made when the first job asks for them.
class ActivationBuffer {
 public:
  ActivationBuffer() = default;
  /// int8 room, and bfloat16 room where `isa` multiplies those, for max_rows rows of up to
  /// max_width values.
  ActivationBuffer(int64_t max_rows, int64_t max_width, kernels::Isa isa);

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
  void Quantise();
  void Round();

  tensor::AlignedBuffer q_, scale_, sum16_, bf16_;
  int64_t max_rows_ = 0;
  int64_t max_width_ = 0;
  const kernels::Stream* stream_ = nullptr;  // of the current step
  kernels::Rows x_;
  int64_t k_ = 0;
  Activation activation_ = Activation::kF32;
  bool quantised_ = false;
  bool rounded_ = false;
};

/// How the attention kernel sees `attention`: latent heads share rows of c + dr values.
kernels::AttentionShape ShapeOf(const AttentionDescription& attention, int sliding_window);

/// How the expanded form of latent attention sees it.
kernels::ExpandedShape ExpandedShapeOf(const AttentionDescription& attention);

/// Layout of KV pages for `num_layers` layers of `model`.
kernels::KvLayout LayoutOf(const ModelDescription& model, const LoadOptions& options,
                           int num_layers);

/// Buffers of latent attention; empty for other kinds.
struct LatentBuffers {
  LatentBuffers() = default;
  LatentBuffers(const AttentionDescription& attention, const LoadOptions& options, int max_context);

  RowBuffer q_rank;                   ///< [T, q_rank]
  RowBuffer kv;                       ///< [T, c + dr]
  RowBuffer q_absorbed;               ///< [T, N (c + dr)]
  RowBuffer attended;                 ///< [T, N c]
  RowBuffer index_q;                  ///< [T, nI dI]
  RowBuffer index_k;                  ///< [T, dI]
  RowBuffer index_w;                  ///< [T, nI]
  std::vector<int32_t> chosen;        ///< [T, top_k] positions that each row attends to
  std::vector<int32_t> chosen_count;  ///< [T]
  tensor::AlignedBuffer index_scratch;
  /// The sequences of the step, each whole or as a part to expand and a part to absorb.
  std::vector<kernels::AttentionSequence> parts;
  std::vector<bool> expands;  ///< of each part
};

/// Scratch for foretelling the experts of the next layer.
struct ForetoldExperts {
  std::vector<int32_t> ids;     ///< [K] of one token
  std::vector<float> weights;   ///< [K]
  std::vector<float> votes;     ///< [E] sums of weights
  std::vector<int32_t> ranked;  ///< at most E experts
};

/// All buffers of Forward.
struct Workspace {
  Workspace(const ModelDescription& model, const kernels::KvLayout& layout,
            const LoadOptions& options, int max_context, int num_threads);

  RowBuffer hidden;    ///< residual stream [T, H]
  RowBuffer normed;    ///< [T, H]
  RowBuffer q;         ///< [T, N D]
  RowBuffer k, v;      ///< [T, G D] (grouped)
  RowBuffer attended;  ///< [T, N D], or [T, N dv] (latent)
  LatentBuffers latent;
  RowBuffer update;                  ///< [T, H]: what a block adds to the residual stream
  RowBuffer ffn_gate, ffn_up;        ///< [T, F] or, in MoE layers, [T K, F]
  RowBuffer expert_out;              ///< [T K, H]
  RowBuffer router;                  ///< [T, E] gate logits, then scores
  RowBuffer router_choice;           ///< [T, E]
  RowBuffer shared_gate, shared_up;  ///< [T, shared_dim]
  RowBuffer shared_out;              ///< [T, H]
  ActivationBuffer activations;
  tensor::AlignedBuffer cos, sin;  ///< [T, rotary_dim / 2] f32
  tensor::AlignedBuffer attention_scratch;
  std::vector<int32_t> expert_ids;    ///< [T, K] chosen, ascending within a token
  std::vector<float> expert_weights;  ///< [T, K]
  std::vector<int32_t> all_experts;   ///< 0 .. E - 1
  ExpertGroups groups;
  ForetoldExperts foretold;
  std::vector<kernels::MatMulJob> jobs;
};

class ExpertStore;

/// The layer that a block computes.
struct LayerContext {
  const LayerWeights& weights;
  const LayerDescription& description;
  const kernels::KvLayout& layout;         ///< of the pages at hand
  int kv_layer = 0;                        ///< which layer of the pages
  int id = 0;                              ///< as captures name it
  const LayerWeights* next_moe = nullptr;  ///< of the next MoE layer; null: there is none
  int next_moe_id = 0;                     ///< its id
};

/// What a block needs to know of the step.
struct Step {
  const kernels::Stream& stream;
  Workspace& workspace;
  Activation activation = Activation::kF32;
  int64_t num_rows = 0;  ///< T
  std::span<const kernels::AttentionSequence> sequences;
  Capture* capture = nullptr;
  ExpertStore* experts = nullptr;  ///< null: all experts are in memory

  std::span<float> attention_scratch() const {
    return {workspace.attention_scratch.as<float>(),
            workspace.attention_scratch.size_bytes() / sizeof(float)};
  }
};

}  // namespace halfmoon::model
