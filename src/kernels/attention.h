// SPDX-License-Identifier: Apache-2.0
// Causal attention over paged KV, and the write of new KV into pages: grouped-query attention, and
// multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in absorbed form, where every head
// attends over the same latent rows, whose leading values are also the attended values.
//
// Arithmetic, the same for every ISA (but see below) and independent of batch, chunk and threads:
// the positions that a query sees are cut at absolute multiples of kAttentionSplit. Within a split:
// score[p] = scale * Σ_d q[d] k[p][d] (fma, ascending d); m = max; e[p] = Exp(score[p] - m); l = Σ
// e in 16 lane sums (lane p % 16, ascending p), the lanes added pairwise (i, i+8), (i, i+4), (i,
// i+2), (i, i+1); o[d] = Σ e[p] v[p][d] (fma, ascending p). Splits merge in ascending order: m' =
// max(m, m_s), a = Exp(m - m'), b = Exp(m_s - m'), l = l a + l_s b, o = o a + o_s b (each operation
// rounded); the first split is taken as it is; at the end o / l. Milakov and Gimelshein 2018 for
// the rescaling; fixed splits are ours, for determinism.
//
// Where keys and values are kBF16 and the ISA multiplies pairs of bfloat16 (AttendsBf16), a split
// is instead: scores to base 2, of q'[d] = bf16(q[d] (scale log2 e)), with two products an
// operation in the order d + 1, d for even d; e[p] = bf16(2^(score[p] - max)), by the polynomial
// kAttendExp2 of the fraction above the next lower integer; l in 16 lane sums (lane p / 2 % 16,
// with p + 1 before p for even p); o[d] in the same order of positions, in which what a query does
// not see counts as a value of 0 with a weight of 0; at the end m = max ln 2. Numbers below the
// normal ones are taken as zero, and sums become zero, as vdpbf16ps does. Splits merge as above.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/paged_kv.h"
#include "kernels/rowwise.h"
#include "kernels/stream.h"

namespace halfmoon::kernels {

inline constexpr int kAttentionSplit = 256;

// Of the arithmetic on kBF16.
inline constexpr float kAttendLog2e = 0x1.715476p+0f;
inline constexpr float kAttendLn2 = 0x1.62e430p-1f;
/// 2^f for f in [0, 1] as a polynomial, ascending, whose largest relative error is least.
inline constexpr float kAttendExp2[4] = {0x1.fff632p-1f, 0x1.64444cp-1f, 0x1.cefc4cp-3f,
                                         0x1.3f96a4p-4f};

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

/// The keys that each query row sees, where attention is sparse (DeepSeek Sparse Attention).
struct KeySelection {
  const int32_t* positions = nullptr;  ///< row r: [stride] ascending, the first counts[r] used
  const int32_t* counts = nullptr;     ///< per row, at least 1
  int64_t stride = 0;
};

/// Stores k and v [rows, G * D] of all sequences into layer `layer` of their pages (kHeads),
/// rounding to the layout's type.
void WriteKv(const Stream& stream, const KvLayout& layout, int layer,
             std::span<const AttentionSequence> sequences, const Rows& k, const Rows& v);

/// The same for kLatent: kv [rows, D] (latent values, then rotated key values) and, where the
/// layout has index keys, index_keys [rows, index_dim].
void WriteLatentKv(const Stream& stream, const KvLayout& layout, int layer,
                   std::span<const AttentionSequence> sequences, const Rows& kv,
                   const Rows& index_keys);

/// out[row] = attention of q[row] over positions 0 .. its own, or over those that `selection` lists
/// for it (kLatent only), which were stored before. q: [rows, N * D]; out: [rows, N * Dv], Dv = D
/// for kHeads and value_dim for kLatent. Chosen positions are cut into splits by their number in
/// the list, so a selection of all positions gives the bits of dense attention. scratch: at least
/// AttentionScratchFloats(...) floats.
void Attention(const Stream& stream, const KvLayout& layout, int layer, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const Rows& q, const Rows& out,
               std::span<float> scratch, const KeySelection* selection = nullptr);

/// True where Attention on pages of that layout multiplies pairs of bfloat16.
bool AttendsBf16(Isa isa, const KvLayout& layout);

/// Scratch that Attention needs for any batch of at most max_rows rows with contexts of at most
/// max_context tokens on num_threads threads.
size_t AttentionScratchFloats(const KvLayout& layout, const AttentionShape& shape, int64_t max_rows,
                              int64_t max_context, int num_threads);

}  // namespace halfmoon::kernels
