// SPDX-License-Identifier: Apache-2.0
// Vector intrinsics. GCC 12's headers build undefined registers from variables that are initialised
// with themselves, and its own -Wuninitialized stumbles over that after inlining.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifdef __aarch64__
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif
#pragma GCC diagnostic pop

#include "base/sanitized.h"

// Sanitizers instrument every register that becomes memory for a moment: straight code of these
// kernels then takes a quarter of an hour to compile. Under them, loops stay loops.
#if HALFMOON_SANITIZED
#define HALFMOON_INLINE
#else
#define HALFMOON_INLINE __attribute__((always_inline))
#endif

namespace halfmoon::kernels {

// Inlined under sanitizers too: files of different instruction sets must not share a copy.
/// Asks for the line of p in L1.
__attribute__((always_inline)) inline void PrefetchL1(const void* p) {
  __builtin_prefetch(p, 0, 3);
}
/// Asks for the line of p in L2.
__attribute__((always_inline)) inline void PrefetchL2(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

/// Calls op(0), op(1), .. op(N - 1) as straight code: for loops over arrays of registers, which
/// must never become memory. -O2 alone leaves such loops rolled. Mark the lambda HALFMOON_INLINE.
template <int N, typename Op>
HALFMOON_INLINE inline void Unroll(const Op& op) {
#if HALFMOON_SANITIZED
  for (int i = 0; i < N; ++i) op(i);
#else
  if constexpr (N > 0) {
    Unroll<N - 1>(op);
    op(N - 1);
  }
#endif
}

}  // namespace halfmoon::kernels
