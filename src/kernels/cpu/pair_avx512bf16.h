// SPDX-License-Identifier: Apache-2.0
// Rows of activations in bfloat16, for matmul_*_avx512bf16.cc.
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

}  // namespace halfmoon::kernels::avx512bf16
