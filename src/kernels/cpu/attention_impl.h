// SPDX-License-Identifier: Apache-2.0
// Attention of one split over 16 lanes (vec_*.h); the operations and their order are those of
// attention_generic.cc. A block of rows (heads of the group times queries) shares each load of K
// and V.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/generic.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/rowwise_impl.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

/// Keys wider than this, and values not of whole vectors, take the generic kernel.
inline constexpr int kAttendMaxHeadDim = 640;
/// Positions of V that are walked for all output vectors before moving on: stays in L1.
inline constexpr int32_t kAttendValueRun = 64;

template <typename V, KvType T>
typename V::F LoadKv(const std::byte* p, int64_t index) {
  if constexpr (T == KvType::kF32) return V::Load(reinterpret_cast<const float*>(p) + index);
  if constexpr (T == KvType::kF16) return V::LoadF16(p + index * 2);
}

template <KvType T>
const char* ElementAt(const std::byte* p, int64_t index) {
  return reinterpret_cast<const char*>(p) + index * (T == KvType::kF32 ? 4 : 2);
}

/// Bytes of 16 elements, which is what one step over d consumes of K, and of V for 16 positions.
template <KvType T>
inline constexpr int kFetchBytes = T == KvType::kF32 ? 64 : 32;

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

/// Scores of all rows at positions [begin, end), and their maxima. With kFetch, the K of the next
/// positions and the V of these are on their way into the cache meanwhile: the first block of rows
/// pays for memory, the others find both in L2.
template <typename V, KvType T, int R, bool kFetch>
void AttendScores(const AttendArgs& args, int32_t begin, int32_t end, AttendBlock<R>* block,
                  typename V::F max[R]) {
  using F = typename V::F;
  Unroll<R>([&](int r) HALFMOON_INLINE { max[r] = V::Set(-__builtin_inff()); });
  for (int32_t p = begin / kKvLane * kKvLane; p < end; p += kKvLane) {
    const std::byte* page = PageAt(args, p);
    const int64_t first = static_cast<int64_t>(p % args.block_size) * args.head_dim;
    F score[R];
    Unroll<R>([&](int r) HALFMOON_INLINE { score[r] = V::Zero(); });
    const int32_t ahead = p + kKvLane < end ? p + kKvLane : p;
    const char* next_k =
        ElementAt<T>(PageAt(args, ahead) + args.k_offset,
                     static_cast<int64_t>(ahead % args.block_size) * args.head_dim);
    const char* this_v = ElementAt<T>(page + args.v_offset, first);
    const float* q = block->q;
    for (int d = 0; d < args.head_dim; ++d, q += R) {
      if constexpr (kFetch) {
        PrefetchL1(next_k + d * kFetchBytes<T>);
        PrefetchL2(this_v + d * kFetchBytes<T>);
      }
      const F k = LoadKv<V, T>(page + args.k_offset, first + d * kKvLane);
      Unroll<R>([&](int r) HALFMOON_INLINE { score[r] = V::Fma(V::Set(q[r]), k, score[r]); });
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      F scaled = V::Mul(score[r], V::Set(args.scale));
      if (p < block->begin[r] || p + kKvLane > block->end[r]) {
        const int32_t from = block->begin[r] - p;
        const int32_t to = block->end[r] - p;
        const int low = from < 0 ? 0 : from > kKvLane ? kKvLane : from;
        const int high = to < low ? low : to > kKvLane ? kKvLane : to;
        scaled = V::SelectLanes(scaled, -__builtin_inff(), low, high);
      }
      V::Store(block->scores + r * kAttentionSplit +
                   (p - args.begin / kAttentionSplit * kAttentionSplit),
               scaled);
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
  const auto run = [&]<int kCount>(const std::byte* values, int32_t p, int32_t count, int d) {
    F o[R][kCount];
    Unroll<R>([&](int r) HALFMOON_INLINE {
      Unroll<kCount>([&](int c) HALFMOON_INLINE { o[r][c] = V::Load(state[r] + d + 16 * c); });
    });
    int64_t index = static_cast<int64_t>(p % args.block_size) * args.value_dim + d;
    const float* e = scores + (p - split);
    // A position's K takes as many bytes as its V, so the same indices cover the next split's K.
    const int32_t next = p + kAttentionSplit;
    const bool fetch = kFetch && next < args.fetch_end;
    const char* next_k =
        ElementAt<T>(PageAt(args, fetch ? next : p) + args.k_offset,
                     static_cast<int64_t>(next % args.block_size) * args.head_dim + d);
    for (int32_t i = 0; i < count; ++i, index += args.value_dim, ++e) {
      if (fetch) PrefetchL2(next_k + i * args.head_dim * (kFetchBytes<T> / 16));
      F v[kCount];
      Unroll<kCount>([&](int c) HALFMOON_INLINE { v[c] = LoadKv<V, T>(values, index + 16 * c); });
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
    const std::byte* page = PageAt(args, p);
    int32_t count = args.block_size - p % args.block_size;
    if (count > kAttendValueRun) count = kAttendValueRun;
    if (count > end - p) count = end - p;
    int d = 0;
    for (; d + 16 * kChunks <= args.value_dim; d += 16 * kChunks) {
      run.template operator()<kChunks>(page + args.v_offset, p, count, d);
    }
    for (; d < args.value_dim; d += 16)
      run.template operator()<1>(page + args.v_offset, p, count, d);
    p += count;
  }
}

template <typename V, KvType T, int R, bool kFetch>
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
  AttendScores<V, T, R, kFetch>(args, any_begin, any_end, &block, max);
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
    AttendValues<V, T, 1, false>(args, block.begin[r], end, block.scores + r * kAttentionSplit,
                                 block.state + r);
  }
  if (!shared) return;
  AttendValues<V, T, R, kFetch>(args, all_begin, all_end, block.scores, block.state);
  for (int r = 0; r < R; ++r) {
    AttendValues<V, T, 1, false>(args, all_end, block.end[r], block.scores + r * kAttentionSplit,
                                 block.state + r);
  }
}

/// Rows [first, first + count), count at most R.
template <typename V, KvType T, int R>
void AttendUpTo(const AttendArgs& args, int32_t first, int32_t count) {
  if constexpr (R > 1) {
    if (count < R) return AttendUpTo<V, T, R - 1>(args, first, count);
  }
  // Only the first block of rows waits for memory.
  if (first == 0) {
    AttendRows<V, T, R, true>(args, first);
  } else {
    AttendRows<V, T, R, false>(args, first);
  }
}

template <typename V, KvType T>
void AttendAll(const AttendArgs& args) {
  const int32_t rows = args.num_queries * args.group;
  const int32_t blocks = (rows + V::kAttendRows - 1) / V::kAttendRows;
  // Even blocks: 9 rows run as 5 and 4, not as 8 and 1.
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t first = rows * b / blocks;
    AttendUpTo<V, T, V::kAttendRows>(args, first, rows * (b + 1) / blocks - first);
  }
}

template <typename V>
void Attend(const AttendArgs& args) {
  if (args.value_dim % 16 != 0 || args.head_dim > kAttendMaxHeadDim) return generic::Attend(args);
  if (args.type == KvType::kF32) return AttendAll<V, KvType::kF32>(args);
  AttendAll<V, KvType::kF16>(args);
}

template <typename V>
void StoreKv(const StoreKvArgs& args) {
  if (args.type == KvType::kF32 || args.head_dim % 16 != 0) return generic::StoreKv(args);
  const int64_t d_count = args.head_dim;
  const int64_t head_elements = args.block_size * d_count;
  auto* elements = reinterpret_cast<uint16_t*>(args.page);
  uint16_t* k_out = elements + args.slot / kKvLane * d_count * kKvLane + args.slot % kKvLane;
  uint16_t* v_out = elements + args.num_kv_heads * head_elements + args.slot * d_count;
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const int64_t from = head * d_count;
    const int64_t to = head * head_elements;
    for (int64_t d = 0; d < d_count; d += 16) {
      uint16_t k[16];
      V::StoreF16(k, V::Load(args.k + from + d));
      for (int i = 0; i < 16; ++i) k_out[to + (d + i) * kKvLane] = k[i];
      V::StoreF16(v_out + to + d, V::Load(args.v + from + d));
    }
  }
}

}  // namespace halfmoon::kernels::impl
