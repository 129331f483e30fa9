// SPDX-License-Identifier: Apache-2.0
// The part of the limits' probes that is the same over vec_*.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/intrinsics.h"

namespace halfmoon::kernels::impl {

/// Fused multiply-adds in kChains independent chains, enough to cover their latency.
template <typename V, int kChains>
int64_t ProbeF32(int64_t iterations, int32_t* result) {
  typename V::F sums[kChains];
  // All lanes differ: equal registers would be computed once.
  float start[kChains * 16];
  for (int i = 0; i < kChains * 16; ++i) start[i] = static_cast<float>(i);
  Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = V::Load(start + 16 * i); });
  const typename V::F factor = V::Set(static_cast<float>(iterations & 3) * 0.25f);
  const typename V::F term = V::Set(1.0f);
  for (int64_t n = 0; n < iterations; ++n) {
    Unroll<kChains>([&](int i) HALFMOON_INLINE { sums[i] = V::Fma(sums[i], factor, term); });
  }
  typename V::F total = V::Zero();
  Unroll<kChains>([&](int i) HALFMOON_INLINE { total = V::Add(total, sums[i]); });
  *result = static_cast<int32_t>(V::SumLanes(total));
  return iterations * kChains * 32;
}

/// Reads four streams at once, a quarter of the memory each, and fetches 2 KiB ahead.
template <typename V>
int32_t ProbeRead(const std::byte* memory, size_t size_bytes) {
  constexpr size_t kStreams = 4;
  const size_t part = size_bytes / kStreams / 64 * 64;
  typename V::I sums[kStreams];
  Unroll<static_cast<int>(kStreams)>([&](size_t s) HALFMOON_INLINE { sums[s] = V::SetI(0); });
  for (size_t i = 0; i < part; i += 64) {
    Unroll<static_cast<int>(kStreams)>([&](size_t s) HALFMOON_INLINE {
      const std::byte* line = memory + s * part + i;
      PrefetchL1(line + 2048);
      sums[s] = V::AddI(sums[s], V::LoadI(line));
    });
  }
  return V::SumLanesI(V::AddI(V::AddI(sums[0], sums[1]), V::AddI(sums[2], sums[3])));
}

}  // namespace halfmoon::kernels::impl
