// SPDX-License-Identifier: Apache-2.0
// Vector intrinsics. GCC 12's headers build undefined registers from variables that are initialised
// with themselves, and its own -Wuninitialized stumbles over that after inlining.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#define HALFMOON_INLINE __attribute__((always_inline))

namespace halfmoon::kernels {

/// Calls op(0), op(1), .. op(N - 1) as straight code: for loops over arrays of registers, which
/// must never become memory. -O2 alone leaves such loops rolled. Mark the lambda HALFMOON_INLINE.
template <int N, typename Op>
HALFMOON_INLINE inline void Unroll(const Op& op) {
  if constexpr (N > 0) {
    Unroll<N - 1>(op);
    op(N - 1);
  }
}

}  // namespace halfmoon::kernels
