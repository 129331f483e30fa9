// SPDX-License-Identifier: Apache-2.0
// What products of bfloat16 pairs share: matmul_*_avx512bf16.cc.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::avx512bf16 {

/// Activations of output row `row`.
HALFMOON_INLINE inline const uint16_t* Bf16Row(const MatMulArgs& args, int64_t row) {
  const int64_t source = args.row_index != nullptr ? args.row_index[row] : args.row_begin + row;
  return args.bf16 + source * args.bf16_stride;
}

/// Two inputs in every lane.
HALFMOON_INLINE inline __m512i BroadcastPair(const uint16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

/// Calls op.template operator()<R, T>(tile) for T tiles from `tile` on, whose rows are to be
/// multiplied in blocks of up to R: as many sums stay in registers. An instruction waits 6 cycles
/// for its own sum and one starts each cycle, so 6 sums are enough; 8 rows of 2 tiles use each load
/// of weights 8 times. With few rows memory is the limit, and more tiles are more streams of it.
template <typename Op>
HALFMOON_INLINE inline void ForTiles(int64_t num_rows, int64_t tile_begin, int64_t tile_end,
                                     const Op& op) {
  constexpr int kFewRows = 4;
  const auto all = [&]<int R, int T>() HALFMOON_INLINE {
    int64_t tile = tile_begin;
    for (; tile + T <= tile_end; tile += T) op.template operator()<R, T>(tile);
    for (; tile < tile_end; ++tile) op.template operator()<R, 1>(tile);
  };
  if (num_rows <= kFewRows) {
    all.template operator()<kFewRows, 4>();
  } else {
    all.template operator()<8, 2>();
  }
}

}  // namespace halfmoon::kernels::avx512bf16
