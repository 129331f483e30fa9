// SPDX-License-Identifier: Apache-2.0
// Attention of one split over 16 lanes (vec_*.h); the operations and their order are those of
// attention_generic.cc. A block of rows (heads of the group times queries) shares each load of K
// and V.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/generic.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/kv_impl.h"
#include "kernels/cpu/rowwise_impl.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

/// Positions of V that are walked for all output vectors before moving on: stays in L1.
inline constexpr int32_t kAttendValueRun = 64;

/// A block of R rows: their queries, and the positions that each sees in this split.
template <int R>
struct AttendBlock {
  alignas(64) float q[R * kAttendMaxHeadDim];
  alignas(64) float scores[R * kAttentionSplit];  // [R][positions], later Exp of them
  int32_t begin[R];
  int32_t end[R];
  float* state[R];
  int32_t any_begin, any_end;  // what some row sees
  int32_t all_begin, all_end;  // what every row sees
};

/// The page that holds position p.
inline const std::byte* PageAt(const AttendArgs& args, int32_t p) {
  return args.pages + static_cast<size_t>(args.page_table[p / args.block_size]) * args.page_bytes;
}

/// The run of keys that position p, a multiple of 16, begins.
inline const std::byte* KeysAt(const AttendArgs& args, int32_t p) {
  return PageAt(args, p) + args.k_offset +
         static_cast<size_t>(p % args.block_size) * args.k_row_bytes;
}

/// The row of values of position p.
inline const std::byte* ValuesAt(const AttendArgs& args, int32_t p) {
  return PageAt(args, p) + args.v_offset +
         static_cast<size_t>(p % args.block_size) * args.v_row_bytes;
}

/// Bytes that one value of 16 positions takes, without scales: the step of fetching ahead.
template <KvType T>
inline constexpr int64_t kFetchBytes = T == KvType::kF32    ? 64
                                       : T == KvType::kQ8_0 ? 16
                                                            : 32;

/// Keeps scores of the run of position p, minus infinity where a row does not see one, and their
/// maxima.
template <typename V, int R>
HALFMOON_INLINE inline void KeepScores(const typename V::F score[R], int32_t p, int32_t split,
                                       AttendBlock<R>* block, typename V::F max[R]) {
  Unroll<R>([&](int r) HALFMOON_INLINE {
    typename V::F seen = score[r];
    if (p < block->begin[r] || p + kKvLane > block->end[r]) {
      const int32_t from = block->begin[r] - p;
      const int32_t to = block->end[r] - p;
      const int low = from < 0 ? 0 : from > kKvLane ? kKvLane : from;
      const int high = to < low ? low : to > kKvLane ? kKvLane : to;
      seen = V::SelectLanes(seen, -__builtin_inff(), low, high);
    }
    V::Store(block->scores + r * kAttentionSplit + (p - split), seen);
    max[r] = V::Max(seen, max[r]);
  });
}

/// Scores of all rows at positions [begin, end), and their maxima. With kFetch, the K of the next
/// positions and the V of these are on their way into the cache meanwhile: the first block of rows
/// pays for memory, the others find both in L2.
template <typename V, KvType T, int R, bool kFetch>
void AttendScores(const AttendArgs& args, int32_t begin, int32_t end, AttendBlock<R>* block,
                  typename V::F max[R]) {
  using F = typename V::F;
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  // V of 16 positions, in as many steps as K has.
  const int64_t v_step = static_cast<int64_t>(args.v_row_bytes) * kKvLane / args.head_dim;
  Unroll<R>([&](int r) HALFMOON_INLINE { max[r] = V::Set(-__builtin_inff()); });
  for (int32_t p = begin / kKvLane * kKvLane; p < end; p += kKvLane) {
    F score[R];
    Unroll<R>([&](int r) HALFMOON_INLINE { score[r] = V::Zero(); });
    const std::byte* next_k = KeysAt(args, p + kKvLane < end ? p + kKvLane : p);
    const std::byte* this_v = ValuesAt(args, p);
    ForRun<V, T>(KeysAt(args, p), args.head_dim, [&](int32_t d, F k) HALFMOON_INLINE {
      if constexpr (kFetch) {
        PrefetchL1(next_k + d * kFetchBytes<T>);
        PrefetchL2(this_v + d * v_step);
      }
      const float* q = block->q + d;
      Unroll<R>([&](int r) HALFMOON_INLINE {
        score[r] = V::Fma(V::Set(q[r * kAttendMaxHeadDim]), k, score[r]);
      });
    });
    Unroll<R>([&](int r) HALFMOON_INLINE { score[r] = V::Mul(score[r], V::Set(args.scale)); });
    KeepScores<V, R>(score, p, split, block, max);
  }
}

/// state rows [first, first + R) += Σ e[p] v[p] over p in [begin, end), ascending; p counts rows of
/// V::kRowPositions positions, as all of args does. With kFetch, the K of the next split is on its
/// way into the cache meanwhile.
template <typename V, KvType T, int R, bool kFetch>
void AttendValues(const AttendArgs& args, int32_t begin, int32_t end, const float* scores,
                  float* const* state) {
  using F = typename V::F;
  constexpr int kChunks = V::kAttendChunks;
  constexpr int32_t kSplit = kAttentionSplit / V::kRowPositions;
  const int32_t split = args.begin / kSplit * kSplit;
  const auto run = [&]<int kCount>(const std::byte* row, int32_t p, int32_t count, int d) {
    F o[R][kCount];
    Unroll<R>([&](int r) HALFMOON_INLINE {
      Unroll<kCount>([&](int c) HALFMOON_INLINE { o[r][c] = V::Load(state[r] + d + 16 * c); });
    });
    const float* e = scores + (p - split);
    // K of the next split in as many steps: a run has the bytes of 16 rows.
    const int32_t next = p + kSplit;
    const bool fetch = kFetch && next < args.fetch_end;
    const std::byte* next_k =
        PageAt(args, fetch ? next : p) + args.k_offset +
        static_cast<size_t>(next % args.block_size) * args.k_row_bytes +
        static_cast<size_t>(d) * args.k_row_bytes / static_cast<size_t>(args.head_dim);
    for (int32_t i = 0; i < count; ++i, row += args.v_row_bytes, ++e) {
      if (fetch) {
        Unroll<V::kRowPositions>([&](int line) HALFMOON_INLINE { PrefetchL2(next_k + 64 * line); });
        next_k += args.k_row_bytes;
      }
      F v[kCount];
      const bool second = T == KvType::kBF16 && (p + i) % 2 == 1;
      Unroll<kCount>([&](int c) HALFMOON_INLINE {
        v[c] = LoadValue<V, T>(row, args.v_row_bytes, args.value_dim, d + 16 * c, second);
      });
      Unroll<R>([&](int r) HALFMOON_INLINE {
        const F weight = V::Set(e[r * kAttentionSplit]);
        Unroll<kCount>([&](int c) HALFMOON_INLINE { o[r][c] = V::Fma(weight, v[c], o[r][c]); });
      });
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      Unroll<kCount>([&](int c) HALFMOON_INLINE { V::Store(state[r] + d + 16 * c, o[r][c]); });
    });
  };
  for (int32_t p = begin; p < end;) {
    const std::byte* row = ValuesAt(args, p);
    int32_t count = args.block_size - p % args.block_size;
    if (count > kAttendValueRun) count = kAttendValueRun;
    if (count > end - p) count = end - p;
    int d = 0;
    for (; d + 16 * kChunks <= args.value_dim; d += 16 * kChunks) {
      run.template operator()<kChunks>(row, p, count, d);
    }
    for (; d < args.value_dim; d += 16) run.template operator()<1>(row, p, count, d);
    p += count;
  }
}

/// AttendScores and AttendValues by the types at hand.
template <typename V, int R, bool kFetch>
void ScoresOfType(const AttendArgs& args, int32_t begin, int32_t end, AttendBlock<R>* block,
                  typename V::F max[R]) {
  WithKvType(args.k_type, [&]<KvType T>() HALFMOON_INLINE {
    AttendScores<V, T, R, kFetch>(args, begin, end, block, max);
  });
}
template <typename V, int R, bool kFetch>
void ValuesOfType(const AttendArgs& args, int32_t begin, int32_t end, const float* scores,
                  float* const* state) {
  WithKvType(args.v_type, [&]<KvType T>() HALFMOON_INLINE {
    AttendValues<V, T, R, kFetch>(args, begin, end, scores, state);
  });
}

/// The query of a row.
template <typename V>
HALFMOON_INLINE inline const float* QueryOf(const AttendArgs& args, int32_t row) {
  return args.q + row / args.group * args.q_stride + row % args.group * args.head_dim;
}

/// Rows [first_row, first_row + R): what they see, and empty states.
template <typename V, int R>
HALFMOON_INLINE inline void StartBlock(const AttendArgs& args, int32_t first_row,
                                       AttendBlock<R>* block) {
  const int value_dim = args.value_dim;
  block->any_begin = args.end;
  block->any_end = args.begin;
  block->all_begin = args.begin;
  block->all_end = args.end;
  for (int r = 0; r < R; ++r) {
    const int32_t position = args.position + (first_row + r) / args.group;
    const int32_t oldest = args.window > 0 ? position + 1 - args.window : 0;
    const int32_t begin = oldest > args.begin ? oldest : args.begin;
    const int32_t end = position + 1 < args.end ? position + 1 : args.end;
    float* state = args.state + (first_row + r) * AttendStateStride(value_dim);
    if (begin < block->any_begin) block->any_begin = begin;
    if (end > block->any_end) block->any_end = end;
    if (begin > block->all_begin) block->all_begin = begin;
    if (end < block->all_end) block->all_end = end;
    for (int d = 0; d < value_dim; d += 16) V::Store(state + d, V::Zero());
    state[AttendStateMax(value_dim)] = -__builtin_inff();
    state[AttendStateSum(value_dim)] = 0.0f;
    block->begin[r] = begin;
    block->end[r] = end;
    block->state[r] = state;
  }
}

template <typename V, int R, bool kFetch>
void AttendRows(const AttendArgs& args, int32_t first_row) {
  using F = typename V::F;
  const int value_dim = args.value_dim;
  AttendBlock<R> block;
  StartBlock<V>(args, first_row, &block);
  for (int r = 0; r < R; ++r) {
    const float* q = QueryOf<V>(args, first_row + r);
    for (int d = 0; d < args.head_dim; ++d) block.q[r * kAttendMaxHeadDim + d] = q[d];
  }
  F max[R];
  ScoresOfType<V, R, kFetch>(args, block.any_begin, block.any_end, &block, max);
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  for (int r = 0; r < R; ++r) {
    if (block.begin[r] >= block.end[r]) continue;
    const float row_max = V::MaxLanes(max[r]);
    const F m = V::Set(row_max);
    F sum = V::Zero();
    for (int32_t p = block.begin[r] / kKvLane * kKvLane; p < block.end[r]; p += kKvLane) {
      float* scores = block.scores + r * kAttentionSplit + (p - split);
      const F e = impl::Exp<V>(V::Sub(V::Load(scores), m));
      V::Store(scores, e);
      sum = V::Add(sum, e);
    }
    block.state[r][AttendStateMax(value_dim)] = row_max;
    block.state[r][AttendStateSum(value_dim)] = V::SumLanes(sum);
  }
  // Positions that only some rows see run row by row: values beyond a row's own positions must not
  // touch it, not even times zero.
  const bool shared = block.all_begin < block.all_end;
  for (int r = 0; r < R; ++r) {
    const int32_t end = shared ? block.all_begin : block.end[r];
    ValuesOfType<V, 1, false>(args, block.begin[r], end, block.scores + r * kAttentionSplit,
                              block.state + r);
  }
  if (!shared) return;
  ValuesOfType<V, R, kFetch>(args, block.all_begin, block.all_end, block.scores, block.state);
  for (int r = 0; r < R; ++r) {
    ValuesOfType<V, 1, false>(args, block.all_end, block.end[r], block.scores + r * kAttentionSplit,
                              block.state + r);
  }
}

/// Calls op for rows [first, first + count), count at most R.
template <typename V, int R, typename Op>
void BlockUpTo(const AttendArgs& args, int32_t first, int32_t count, const Op& op) {
  if constexpr (R > 1) {
    if (count < R) return BlockUpTo<V, R - 1>(args, first, count, op);
  }
  // Only the first block of rows waits for memory.
  if (first == 0 && args.fetch_end > 0) {
    op.template operator()<R, true>(first);
  } else {
    op.template operator()<R, false>(first);
  }
}

/// Calls op.template operator()<R, kFetch>(first row) for blocks of R rows.
template <typename V, typename Op>
void ForBlocks(const AttendArgs& args, const Op& op) {
  const int32_t rows = args.num_queries * args.group;
  const int32_t blocks = (rows + V::kAttendRows - 1) / V::kAttendRows;
  // Even blocks: 9 rows run as 5 and 4, not as 8 and 1.
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t first = rows * b / blocks;
    BlockUpTo<V, V::kAttendRows>(args, first, rows * (b + 1) / blocks - first, op);
  }
}

template <typename V>
void Attend(const AttendArgs& args) {
  if (args.value_dim % 16 != 0 || args.head_dim > kAttendMaxHeadDim) return generic::Attend(args);
  ForBlocks<V>(args,
               [&]<int R, bool kFetch>(int32_t first) { AttendRows<V, R, kFetch>(args, first); });
}

template <typename V>
void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to) {
  const int64_t stride = AttendStateStride(value_dim);
  const int64_t max = AttendStateMax(value_dim);
  const int64_t sum = AttendStateSum(value_dim);
  for (int64_t row = 0; row < rows; ++row, from += stride, to += stride) {
    if (from[sum] == 0.0f) continue;
    if (to[sum] == 0.0f) {
      for (int64_t d = 0; d < stride; d += 16) V::Store(to + d, V::Load(from + d));
      continue;
    }
    const float merged = from[max] > to[max] ? from[max] : to[max];
    const typename V::F a = impl::Exp<V>(V::Set(to[max] - merged));
    const typename V::F b = impl::Exp<V>(V::Set(from[max] - merged));
    const auto merge = [&](int64_t d) {
      V::Store(to + d, V::Add(V::Mul(V::Load(to + d), a), V::Mul(V::Load(from + d), b)));
    };
    for (int64_t d = 0; d < max; d += 16) merge(d);
    merge(max);  // The sum, beside the maximum, which comes next.
    to[max] = merged;
  }
}

template <typename V>
void StoreState(int64_t value_dim, const float* state, float* out) {
  const typename V::F sum = V::Set(state[AttendStateSum(value_dim)]);
  int64_t d = 0;
  for (; d + 16 <= value_dim; d += 16) V::Store(out + d, V::Div(V::Load(state + d), sum));
  if (d == value_dim) return;
  V::StorePart(out + d, V::Div(V::Load(state + d), sum), value_dim - d);
}

}  // namespace halfmoon::kernels::impl
