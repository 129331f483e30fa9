// SPDX-License-Identifier: Apache-2.0
// The lightning indexer of DeepSeek Sparse Attention (DeepSeek-V3.2-Exp report, equation 1): scores
// of all earlier positions against a query, and the choice of the best.
//
// I(t, s) = Σ_h w_h(t) relu( (q_h(t) · k(s)) scale ), heads ascending; products and sums are fma in
// ascending order from 0, so a score depends on its query and key alone.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "kernels/rowwise.h"
#include "kernels/stream.h"

namespace halfmoon::kernels {

struct IndexerShape {
  int num_heads = 0;
  int head_dim = 0;
  float scale = 0.0f;  ///< of q·k
  int top_k = 0;       ///< keys chosen for a query
};

/// Where the choice goes. Row strides in elements.
struct IndexerOutput {
  int32_t* positions = nullptr;  ///< [rows, stride], ascending; stride at least min(top_k, context)
  int32_t* counts = nullptr;     ///< [rows]: min(top_k, position + 1)
  int64_t stride = 0;
  float* scores = nullptr;  ///< null, or [rows, scores_stride]: the scores of positions 0 .. own
  int64_t scores_stride = 0;
};

/// For each row the min(top_k, position + 1) best positions among 0 .. its own; of equal scores the
/// earlier position wins, NaN counts as -infinity. q: [rows, num_heads * head_dim], w: [rows,
/// num_heads]; index keys were stored before. Rows that see no more than top_k positions choose all
/// of them unscored, unless scores are asked for. scratch: at least IndexerScratchFloats floats.
void ChooseKeys(const Stream& stream, const KvLayout& layout, int layer, const IndexerShape& shape,
                std::span<const AttentionSequence> sequences, const Rows& q, const Rows& w,
                const IndexerOutput& out, std::span<float> scratch);

/// Scratch for contexts of at most max_context tokens and steps of max_rows rows.
size_t IndexerScratchFloats(int64_t max_rows, int64_t max_context);

}  // namespace halfmoon::kernels
