// SPDX-License-Identifier: Apache-2.0
// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in expanded form: keys and values of
// each head are made from the cached latent rows, split by split, and the head attends over them.
// The absorbed form (attention.h) computes the same function in another order, so results differ in
// the last bits.
//
// Arithmetic, independent of batch, of threads and of how a prompt is cut: k_nope and v of a
// position are products in float32 as matmul.h has them, of the latent values as they were stored;
// its key is k_nope, then the rotated values that were stored. Scores, splits and their merging are
// those of attention.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"
#include "kernels/packed_matrix.h"
#include "kernels/paged_kv.h"
#include "kernels/rowwise.h"
#include "kernels/stream.h"

namespace halfmoon::kernels {

struct ExpandedShape {
  int num_heads = 0;   ///< N
  int latent_dim = 0;  ///< c
  int nope_dim = 0;    ///< dn
  int rope_dim = 0;    ///< dr
  int value_dim = 0;   ///< dv
  float scale = 0.0f;  ///< of q·k
};

/// What makes keys and values of latents, one matrix a head.
struct ExpandedWeights {
  std::span<const PackedMatrix> key;    ///< [dn, c]
  std::span<const PackedMatrix> value;  ///< [dv, c]
};

/// True where expanding costs less than absorbing for `count` consecutive tokens of a sequence at
/// positions from `start` on.
bool ExpansionPays(const ExpandedShape& shape, int64_t count, int64_t start);

/// out[row] = attention of q[row] over positions 0 .. its own, which were stored before in layer
/// `layer` of kLatent pages. q: [rows, N (dn + dr)], the last dr of a head rotated; out: [rows, N
/// dv]. scratch: at least ExpandedScratchFloats(...) floats.
void ExpandedAttention(const Stream& stream, const KvLayout& layout, int layer,
                       const ExpandedShape& shape, const ExpandedWeights& weights,
                       std::span<const AttentionSequence> sequences, const Rows& q, const Rows& out,
                       std::span<float> scratch);

/// Scratch that ExpandedAttention needs for any batch of at most max_rows rows on num_threads
/// threads. Does not grow with the context.
size_t ExpandedScratchFloats(const ExpandedShape& shape, int64_t max_rows, int num_threads);

}  // namespace halfmoon::kernels
