// SPDX-License-Identifier: Apache-2.0
// How one call of Attention (attention.h) is cut into items that threads take, for attention.cc
// only. What a query gets does not depend on the cut.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>

#include "kernels/attention.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {

/// State rows (query x head) that attend together: enough to reuse keys and values from the cache,
/// few enough that their states stay there too.
inline constexpr int64_t kItemRows = 64;
/// State rows of an item where there are many, so that staging a split is paid for by more: it
/// takes as long as attending to it from about ten rows of latents, and from about four of heads.
inline constexpr int64_t kMaxItemRows = 256;
/// From this many state rows on, a split of heads is staged too; below, values are converted in
/// registers.
inline constexpr int64_t kStageRows = 32;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// What all items of one call share.
struct AttentionProblem {
  const KvLayout& layout;
  int layer;
  const AttentionShape& shape;
  std::span<const AttentionSequence> sequences;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  const KeySelection* selection = nullptr;
  int64_t item_rows = kItemRows;
  bool bf16 = false;  ///< AttendsBf16

  bool latent() const { return layout.kind == KvKind::kLatent; }
  /// Query heads that an item computes together: those of a KV head, or, where all share one
  /// latent, as many as an item has rows.
  int64_t group() const {
    return latent() ? std::gcd(int64_t{shape.num_heads}, kItemRows)
                    : shape.num_heads / layout.num_kv_heads;
  }
  int64_t head_blocks() const { return shape.num_heads / group(); }
  int64_t value_dim() const { return latent() ? layout.value_dim : shape.head_dim; }
  int64_t item_queries() const {
    return selection != nullptr ? 1 : std::max<int64_t>(1, item_rows / group());
  }
  /// Queries of an item that attend together.
  int64_t block_queries() const { return std::max<int64_t>(1, kItemRows / group()); }
  int64_t stride() const { return AttendStateStride(value_dim()); }
  int64_t block_floats() const { return block_queries() * group() * stride(); }
  int64_t item_floats() const { return item_queries() * group() * stride(); }
  /// Width of a staged value row: whole vectors.
  int64_t staged_values() const { return CeilDiv(value_dim(), kKvLane) * kKvLane; }
  bool can_stage() const {
    return latent() || (shape.head_dim % kKvLane == 0 &&
                        (layout.k_type != KvType::kF32 || layout.v_type != KvType::kF32));
  }
  /// True where an item of so many queries reads splits from a staged copy. The bits are the same.
  bool stages(int64_t num_queries) const {
    if (latent()) return true;
    // Pairs of bfloat16 are operands as they lie.
    return can_stage() && !bf16 && num_queries * group() >= kStageRows;
  }
  KvType staged_type() const { return bf16 ? KvType::kBF16 : KvType::kF32; }
  /// Floats of a thread's staged split.
  int64_t stage_floats() const {
    return can_stage() ? kAttentionSplit * (shape.head_dim + staged_values()) : 0;
  }
  int64_t num_items() const {
    int64_t blocks = 0;
    for (const AttentionSequence& s : sequences) blocks += CeilDiv(s.count, item_queries());
    return blocks * head_blocks();
  }
};

/// One (sequence, block of heads, block of queries) and the splits that its queries see.
struct AttentionItem {
  const AttentionSequence* sequence;
  int32_t head_block;
  int32_t first_query;
  int32_t num_queries;
  int32_t first_split;
  int32_t end_split;
  int32_t num_positions;  // positions 0 .. num_positions - 1 are seen by the last query
  const int32_t* chosen;  // of these, those that the query sees; null: all
};

/// Item `index` of problem.num_items().
AttentionItem ItemAt(const AttentionProblem& problem, int64_t index);

}  // namespace halfmoon::kernels
