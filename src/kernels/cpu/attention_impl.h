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

/// Keys wider than this, and values not of whole vectors, take the generic kernel.
inline constexpr int kAttendMaxHeadDim = 640;
/// Positions of V that are walked for all output vectors before moving on: stays in L1.
inline constexpr int32_t kAttendValueRun = 64;

/// A block of R rows: their queries interleaved, and the positions that each sees in this split.
template <int R>
struct AttendBlock {
  alignas(64) float q[kAttendMaxHeadDim * R];     // [D][R]
  alignas(64) float scores[R * kAttentionSplit];  // [R][positions], later Exp of them
  int32_t begin[R];
  int32_t end[R];
  float* state[R];
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
inline constexpr int64_t kFetchBytes = T == KvType::kF32   ? 64
                                       : T == KvType::kF16 ? 32
                                                           : 16;

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
    const float* q = block->q;
    ForRun<V, T>(KeysAt(args, p), args.head_dim, [&](int32_t d, F k) HALFMOON_INLINE {
      if constexpr (kFetch) {
        PrefetchL1(next_k + d * kFetchBytes<T>);
        PrefetchL2(this_v + d * v_step);
      }
      Unroll<R>([&](int r) HALFMOON_INLINE { score[r] = V::Fma(V::Set(q[r]), k, score[r]); });
      q += R;
    });
    Unroll<R>([&](int r) HALFMOON_INLINE {
      F scaled = V::Mul(score[r], V::Set(args.scale));
      if (p < block->begin[r] || p + kKvLane > block->end[r]) {
        const int32_t from = block->begin[r] - p;
        const int32_t to = block->end[r] - p;
        const int low = from < 0 ? 0 : from > kKvLane ? kKvLane : from;
        const int high = to < low ? low : to > kKvLane ? kKvLane : to;
        scaled = V::SelectLanes(scaled, -__builtin_inff(), low, high);
      }
      V::Store(block->scores + r * kAttentionSplit + (p - split), scaled);
      max[r] = V::Max(scaled, max[r]);
    });
  }
}

/// state rows [first, first + R) += Σ e[p] v[p] over p in [begin, end), ascending. With kFetch, the
/// K of the next split is on its way into the cache meanwhile.
template <typename V, KvType T, int R, bool kFetch>
void AttendValues(const AttendArgs& args, int32_t begin, int32_t end, const float* scores,
                  float* const* state) {
  using F = typename V::F;
  constexpr int kChunks = V::kAttendChunks;
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  const auto run = [&]<int kCount>(const std::byte* row, int32_t p, int32_t count, int d) {
    F o[R][kCount];
    Unroll<R>([&](int r) HALFMOON_INLINE {
      Unroll<kCount>([&](int c) HALFMOON_INLINE { o[r][c] = V::Load(state[r] + d + 16 * c); });
    });
    const float* e = scores + (p - split);
    // K of the next split in as many steps: a run has the bytes of 16 rows.
    const int32_t next = p + kAttentionSplit;
    const bool fetch = kFetch && next < args.fetch_end;
    const std::byte* next_k =
        PageAt(args, fetch ? next : p) + args.k_offset +
        static_cast<size_t>(next % args.block_size) * args.k_row_bytes +
        static_cast<size_t>(d) * args.k_row_bytes / static_cast<size_t>(args.head_dim);
    for (int32_t i = 0; i < count; ++i, row += args.v_row_bytes, ++e) {
      if (fetch) {
        PrefetchL2(next_k);
        next_k += args.k_row_bytes;
      }
      F v[kCount];
      Unroll<kCount>(
          [&](int c) HALFMOON_INLINE { v[c] = LoadRow<V, T>(row, args.value_dim, d + 16 * c); });
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

template <typename V, int R, bool kFetch>
void AttendRows(const AttendArgs& args, int32_t first_row) {
  using F = typename V::F;
  const int head_dim = args.head_dim;
  const int value_dim = args.value_dim;
  AttendBlock<R> block;
  int32_t any_begin = args.end;
  int32_t any_end = args.begin;
  int32_t all_begin = args.begin;
  int32_t all_end = args.end;
  for (int r = 0; r < R; ++r) {
    const int32_t query = (first_row + r) / args.group;
    const int32_t position = args.position + query;
    const float* q = args.q + query * args.q_stride + (first_row + r) % args.group * head_dim;
    for (int d = 0; d < head_dim; ++d) block.q[d * R + r] = q[d];
    const int32_t oldest = args.window > 0 ? position + 1 - args.window : 0;
    block.begin[r] = oldest > args.begin ? oldest : args.begin;
    block.end[r] = position + 1 < args.end ? position + 1 : args.end;
    block.state[r] = args.state + (first_row + r) * AttendStateStride(value_dim);
    if (block.begin[r] < any_begin) any_begin = block.begin[r];
    if (block.end[r] > any_end) any_end = block.end[r];
    if (block.begin[r] > all_begin) all_begin = block.begin[r];
    if (block.end[r] < all_end) all_end = block.end[r];
    for (int d = 0; d < value_dim; d += 16) V::Store(block.state[r] + d, V::Zero());
  }
  F max[R];
  ScoresOfType<V, R, kFetch>(args, any_begin, any_end, &block, max);
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  for (int r = 0; r < R; ++r) {
    float* row_max = block.state[r] + AttendStateMax(value_dim);
    float* row_sum = block.state[r] + AttendStateSum(value_dim);
    *row_max = -__builtin_inff();
    *row_sum = 0.0f;
    if (block.begin[r] >= block.end[r]) continue;
    *row_max = V::MaxLanes(max[r]);
    const F m = V::Set(*row_max);
    F sum = V::Zero();
    for (int32_t p = block.begin[r] / kKvLane * kKvLane; p < block.end[r]; p += kKvLane) {
      float* scores = block.scores + r * kAttentionSplit + (p - split);
      const F e = impl::Exp<V>(V::Sub(V::Load(scores), m));
      V::Store(scores, e);
      sum = V::Add(sum, e);
    }
    *row_sum = V::SumLanes(sum);
  }
  // Positions that only some rows see run row by row: values beyond a row's own positions must not
  // touch it, not even times zero.
  const bool shared = all_begin < all_end;
  for (int r = 0; r < R; ++r) {
    const int32_t end = shared ? all_begin : block.end[r];
    ValuesOfType<V, 1, false>(args, block.begin[r], end, block.scores + r * kAttentionSplit,
                              block.state + r);
  }
  if (!shared) return;
  ValuesOfType<V, R, kFetch>(args, all_begin, all_end, block.scores, block.state);
  for (int r = 0; r < R; ++r) {
    ValuesOfType<V, 1, false>(args, all_end, block.end[r], block.scores + r * kAttentionSplit,
                              block.state + r);
  }
}

/// Rows [first, first + count), count at most R.
template <typename V, int R>
void AttendUpTo(const AttendArgs& args, int32_t first, int32_t count) {
  if constexpr (R > 1) {
    if (count < R) return AttendUpTo<V, R - 1>(args, first, count);
  }
  // Only the first block of rows waits for memory.
  if (first == 0 && args.fetch_end > 0) {
    AttendRows<V, R, true>(args, first);
  } else {
    AttendRows<V, R, false>(args, first);
  }
}

template <typename V>
void Attend(const AttendArgs& args) {
  if (args.value_dim % 16 != 0 || args.head_dim > kAttendMaxHeadDim) return generic::Attend(args);
  const int32_t rows = args.num_queries * args.group;
  const int32_t blocks = (rows + V::kAttendRows - 1) / V::kAttendRows;
  // Even blocks: 9 rows run as 5 and 4, not as 8 and 1.
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t first = rows * b / blocks;
    AttendUpTo<V, V::kAttendRows>(args, first, rows * (b + 1) / blocks - first);
  }
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
