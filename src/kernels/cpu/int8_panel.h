// SPDX-License-Identifier: Apache-2.0
// Activations of a block of rows, interleaved for the int8 matmul kernels: a kernel walks one
// pointer instead of one per row, gathered rows cost nothing more, and rows whose stride is a power
// of two do not fight for the same cache sets.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/tile_format.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

/// Rows times groups of a panel: 16 KiB of q, half of the smallest L1, so that the weights passing
/// by leave it there. With 8 KiB a tile of 2048 inputs is left and entered twice, and 8 rows are 25
/// % slower out of memory.
inline constexpr int kPanelSlots = 512;

struct alignas(64) Int8Panel {
  int8_t q[kPanelSlots * 32];         ///< [group][8 words][R][4]
  float scale[kPanelSlots];           ///< [group][R]: a
  float scaled_sum[2 * kPanelSlots];  ///< [group][halves][R]: a float(Σ a), with a minimum
  int32_t start[2 * kPanelSlots];     ///< [group][halves][R]: where sums start, -zero Σ a
};

/// Fills the panel with groups [g0, g0 + groups) of rows [first, first + R) for the products of V
/// (dot_*.h).
template <typename V, WeightFormat F, int R>
void FillPanel(const MatMulArgs& args, int64_t first, int64_t g0, int groups, Int8Panel* panel) {
  using Format = TileFormat<F>;
  const int32_t zero = args.zero - V::template Offset<F>(args.zero);
  for (int r = 0; r < R; ++r) {
    const int64_t row =
        args.row_index != nullptr ? args.row_index[first + r] : args.row_begin + first + r;
    const int64_t begin = row * args.groups + g0;
    const int8_t* q = args.q + begin * 32;
    if constexpr (R == 1) {
      std::memcpy(panel->q, q, static_cast<size_t>(groups) * 32);
    } else {
      int8_t* out = panel->q + 4 * r;
      for (int word = 0; word < groups * 8; ++word)
        std::memcpy(out + word * 4 * R, q + word * 4, 4);
    }
    for (int g = 0; g < groups; ++g) {
      const float a = args.scale[begin + g];
      const int32_t* sums = args.sum16 + (begin + g) * 2;
      panel->scale[g * R + r] = a;
      if constexpr (Format::kHasMin && Format::kHalves) {
        panel->scaled_sum[g * 2 * R + r] = a * static_cast<float>(sums[0]);
        panel->scaled_sum[g * 2 * R + R + r] = a * static_cast<float>(sums[1]);
      } else if constexpr (Format::kHasMin) {
        panel->scaled_sum[g * R + r] = a * static_cast<float>(sums[0] + sums[1]);
      } else if constexpr (Format::kHalves) {
        panel->start[g * 2 * R + r] = -zero * sums[0];
        panel->start[g * 2 * R + R + r] = -zero * sums[1];
      } else {
        panel->start[g * R + r] = -zero * (sums[0] + sums[1]);
      }
    }
  }
}

}  // namespace halfmoon::kernels::impl
