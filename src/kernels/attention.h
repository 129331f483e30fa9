// SPDX-License-Identifier: Apache-2.0
// Causal attention over paged KV, grouped-query form, and the write of new K and V into pages.
//
// Arithmetic, the same for every ISA and independent of batch, chunk and threads: the positions
// that a query sees are cut at absolute multiples of kAttentionSplit. Within a split: score[p] =
// scale * Σ_d q[d] k[p][d] (fma, ascending d); m = max; e[p] = Exp(score[p] - m); l = Σ e in 16
// lane sums (lane p % 16, ascending p), the lanes added pairwise (i, i+8), (i, i+4), (i, i+2), (i,
// i+1); o[d] = Σ e[p] v[p][d] (fma, ascending p). Splits merge in ascending order: m' = max(m,
// m_s), a = Exp(m - m'), b = Exp(m_s - m'), l = l a + l_s b, o = o a + o_s b (each operation
// rounded); the first split is taken as it is; at the end o / l. Milakov and Gimelshein 2018 for
// the rescaling; fixed splits are ours, for determinism.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/paged_kv.h"
#include "kernels/stream.h"

namespace halfmoon::kernels {

inline constexpr int kAttentionSplit = 256;

struct AttentionShape {
  int num_heads = 0;       ///< N
  int head_dim = 0;        ///< D
  float scale = 0.0f;      ///< of q·k
  int sliding_window = 0;  ///< keys a query sees, itself included; 0: all
};

/// T consecutive tokens of one sequence at positions start .. start + T - 1.
struct AttentionSequence {
  int64_t row = 0;    ///< first row of these tokens in q, k, v and out
  int32_t count = 0;  ///< T >= 1
  int32_t start = 0;
  PagedKv kv;
};

/// Stores k and v [rows, G * D] f32 (row strides given) of all sequences into layer `layer` of
/// their pages, rounding to the layout's type.
void WriteKv(const Stream& stream, const KvLayout& layout, int layer,
             std::span<const AttentionSequence> sequences, const float* k, const float* v,
             int64_t stride);

/// out[row] = attention of q[row] over positions 0 .. its own, which WriteKv has stored. q, out:
/// [rows, N * D] f32, row strides given. scratch: at least AttentionScratchFloats(...) floats.
void Attention(const Stream& stream, const KvLayout& layout, int layer, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const float* q, int64_t q_stride,
               float* out, int64_t out_stride, std::span<float> scratch);

/// Scratch that Attention needs for any batch of at most max_rows rows with contexts of at most
/// max_context tokens on num_threads threads.
size_t AttentionScratchFloats(const KvLayout& layout, const AttentionShape& shape, int64_t max_rows,
                              int64_t max_context, int num_threads);

}  // namespace halfmoon::kernels
