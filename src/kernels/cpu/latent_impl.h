// SPDX-License-Identifier: Apache-2.0
// Latent KV (MLA) and index scores over 16 lanes (vec_*.h); the operations and their order are
// those of latent_generic.cc.
#pragma once

#include <cstdint>

#include "kernels/cpu/generic.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/kv_impl.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

/// Index heads that share a load of the keys.
inline constexpr int kIndexHeads = 8;

/// Where the rows of up to 16 positions from `begin` on lie. Those beyond `count` repeat the first.
HALFMOON_INLINE inline void FindRows(const StageLatentArgs& args, int32_t begin, int32_t count,
                                     const std::byte* row[kKvLane]) {
  for (int32_t i = 0; i < kKvLane; ++i) {
    const int32_t at = begin + (i < count ? i : 0);
    const int32_t p = args.positions != nullptr ? args.positions[at] : args.first + at;
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    row[i] = args.pages + page * args.page_bytes + args.row_offset +
             static_cast<size_t>(p % args.block_size) * args.row_bytes;
  }
}

/// Rows of up to 16 positions from `begin` on, in float32, [16][16] at a time turned into keys
/// [16 d][16]. Lanes beyond `count` repeat the first position.
template <typename V, KvType T>
void StageRun(const StageLatentArgs& args, int32_t begin, int32_t count) {
  const std::byte* row[kKvLane];
  FindRows(args, begin, count, row);
  float* keys = args.keys + static_cast<int64_t>(begin / kKvLane) * args.key_stride * kKvLane;
  float* values = args.values + static_cast<int64_t>(begin) * args.value_stride;
  for (int32_t d = 0; d < args.head_dim; d += 16) {
    typename V::F block[kKvLane];
    Unroll<kKvLane>([&](int i) HALFMOON_INLINE {
      block[i] = LoadRow<V, T>(row[i], args.head_dim, d);
      if (d < args.value_dim && i < count) {
        V::Store(values + static_cast<int64_t>(i) * args.value_stride + d, block[i]);
      }
    });
    if (d < args.key_begin) continue;
    V::Transpose(block);
    float* out = keys + static_cast<int64_t>(d - args.key_begin) * kKvLane;
    Unroll<kKvLane>([&](int i) HALFMOON_INLINE { V::Store(out + i * kKvLane, block[i]); });
  }
}

template <typename V>
void StageLatent(const StageLatentArgs& args) {
  if (args.head_dim % 16 != 0 || args.value_dim % 16 != 0 || args.key_begin % 16 != 0) {
    return generic::StageLatent(args);
  }
  for (int32_t begin = 0; begin < args.count; begin += kKvLane) {
    const int32_t left = args.count - begin;
    const int32_t count = left < kKvLane ? left : kKvLane;
    WithKvType(args.type, [&]<KvType T>() HALFMOON_INLINE { StageRun<V, T>(args, begin, count); });
  }
}

/// total += Σ over R heads, ascending, of w relu(q · k scale).
template <typename V, KvType T, int R>
typename V::F ScoreHeads(const IndexScoreArgs& args, const std::byte* run, int32_t head,
                         typename V::F total) {
  using F = typename V::F;
  F dot[R];
  Unroll<R>([&](int r) HALFMOON_INLINE { dot[r] = V::Zero(); });
  const float* q = args.q + static_cast<int64_t>(head) * args.index_dim;
  ForRun<V, T>(run, args.index_dim, [&](int32_t d, F k) HALFMOON_INLINE {
    Unroll<R>([&](int r) HALFMOON_INLINE {
      dot[r] = V::Fma(V::Set(q[r * args.index_dim + d]), k, dot[r]);
    });
  });
  Unroll<R>([&](int r) HALFMOON_INLINE {
    const F positive = V::Max(V::Mul(dot[r], V::Set(args.scale)), V::Zero());
    total = V::Fma(V::Set(args.w[head + r]), positive, total);
  });
  return total;
}

template <typename V, KvType T>
void ScorePositions(const IndexScoreArgs& args) {
  using F = typename V::F;
  for (int32_t p = args.begin; p < args.end; p += kKvLane) {
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const std::byte* run = args.pages + page * args.page_bytes + args.index_offset +
                           static_cast<size_t>(p % args.block_size) * args.row_bytes;
    F total = V::Zero();
    int32_t head = 0;
    for (; head + kIndexHeads <= args.num_heads; head += kIndexHeads) {
      total = ScoreHeads<V, T, kIndexHeads>(args, run, head, total);
    }
    for (; head < args.num_heads; ++head) {
      total = ScoreHeads<V, T, 1>(args, run, head, total);
    }
    V::Store(args.scores + (p - args.begin), total);
  }
}

template <typename V>
void IndexScores(const IndexScoreArgs& args) {
  WithKvType(args.type, [&]<KvType T>() HALFMOON_INLINE { ScorePositions<V, T>(args); });
}

}  // namespace halfmoon::kernels::impl
