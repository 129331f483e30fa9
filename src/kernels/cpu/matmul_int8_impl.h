// SPDX-License-Identifier: Apache-2.0
// The int8 matmul over the byte products of one ISA (dot_*.h). A dot_*.h vector spans kLanes output
// rows of a tile, 4 inputs each; the vectors of some tiles go together, so that each activation
// word is loaded once for all of them, against a few activation rows, whose sums stay in registers.
// Weights are unsigned as stored; sums start at -zero Σ a instead of being corrected afterwards.
#pragma once

#include <cstdint>

#include "kernels/cpu/int8_panel.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/tile_format.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

// Distance of the prefetch into L2. On a Zen 4 core with 4 streams: 25 GB/s (what its memory
// gives); none 23, into L1 4 KiB ahead 15; and 8 rows gain 40 %.
inline constexpr int kPrefetchBytes = 16384;
// Distance of a second one into L1, for more than two rows. Weights and activations come from L2
// then, and the hardware foresees that or not, depending on where code happens to lie: the same
// instructions took 13 % longer in every third build. With fewer rows it costs 6 %.
inline constexpr int kNearPrefetchBytes = 1024;

// Where a kernel stands in one tile.
struct TileCursor {
  const uint8_t* quants;
  const uint8_t* scales;
};

/// The quants of word `word` of a group, of kLanes output rows.
template <typename V, WeightFormat F>
HALFMOON_INLINE inline auto LoadQuants(const uint8_t* group, int word) {
  using Format = TileFormat<F>;
  if constexpr (!Format::kHasNibbles) {
    return V::Load(group + 64 * word);
  } else {
    const auto packed = V::Load(group + 64 * (word / 2));
    const auto nibbles = word % 2 == 1 ? V::HighNibbles(packed) : V::And(packed, V::SetBytes(15));
    if constexpr (Format::kIsLookup) {
      return V::Lookup(Format::Table(), nibbles);
    } else if constexpr (Format::kHighBits > 0) {
      // Bits that a shift brings in from the byte beside fall outside the mask.
      const int shift = Format::HighBit(word) - 4;
      const auto bits = V::Load(group + Format::HighChunk(word));
      const auto moved = shift > 0 ? V::ShiftRight(bits, shift) : V::ShiftLeft(bits, -shift);
      return V::OrAnd(nibbles, moved, V::SetBytes(Format::kHighMask));
    } else {
      return nibbles;
    }
  }
}

/// d, or d sc, of group `sub` of a scale block for kLanes rows from `lane` on; of its half `half`
/// where halves differ.
template <typename V, WeightFormat F>
HALFMOON_INLINE inline auto LoadScale(const uint8_t* scales, int lane, int sub, int half) {
  using Format = TileFormat<F>;
  const auto d =
      Format::kHasBf16Scale ? V::LoadBF16(scales + 2 * lane) : V::LoadF16(scales + 2 * lane);
  if constexpr (!Format::kIsSuper) {
    return d;
  } else {
    const uint8_t* sc =
        scales + Format::kScOffset + 16 * (Format::kHalves ? 2 * sub + half : sub) + lane;
    return V::Mul(d, Format::kHasMin ? V::LoadU8(sc) : V::LoadI8(sc));
  }
}

/// m, or dmin mn, the same.
template <typename V, WeightFormat F>
HALFMOON_INLINE inline auto LoadMinimum(const uint8_t* scales, int lane, int sub, int half) {
  using Format = TileFormat<F>;
  const auto m = V::LoadF16(scales + Format::kMinOffset + 2 * lane);
  if constexpr (!Format::kIsSuper) {
    return m;
  } else {
    const uint8_t* mn =
        scales + Format::kMnOffset + 16 * (Format::kHalves ? 2 * sub + half : sub) + lane;
    return V::Mul(m, V::LoadU8(mn));
  }
}

/// sums[u][r] += Σ quants · activations over words [begin, begin + kWords) of a group.
template <typename V, WeightFormat F, int R, int kUnits, int kWords>
HALFMOON_INLINE inline void MultiplyWords(const TileCursor cursor[], int begin, const int8_t* q,
                                          int zero, typename V::Int sums[kUnits][R]) {
  constexpr int kSplit = 16 / V::kLanes;  // units of a tile
  constexpr int kStep = V::template kWordsPerSum<F> < kWords ? V::template kWordsPerSum<F> : kWords;
  Unroll<kWords / kStep>([&](int step) HALFMOON_INLINE {
    typename V::Narrow narrow[kUnits][R];
    Unroll<kStep>([&](int i) HALFMOON_INLINE {
      const int word = begin + step * kStep + i;
      typename V::Weights weights[kUnits];
      Unroll<kUnits>([&](int u) HALFMOON_INLINE {
        const uint8_t* group = cursor[u / kSplit].quants + u % kSplit * 4 * V::kLanes;
        weights[u] = V::template Prepare<F>(LoadQuants<V, F>(group, word), zero);
      });
      Unroll<R>([&](int r) HALFMOON_INLINE {
        const auto activations = V::Words(q + (word * R + r) * 4);
        Unroll<kUnits>([&](int u) HALFMOON_INLINE {
          if constexpr (V::kSumsWide) {
            sums[u][r] = V::template Dot4<F>(sums[u][r], weights[u], activations);
          } else {
            const auto products = V::template Multiply<F>(weights[u], activations);
            narrow[u][r] = i == 0 ? products : V::AddNarrow(narrow[u][r], products);
          }
        });
      });
    });
    if constexpr (!V::kSumsWide) {
      Unroll<kUnits * R>([&](int n) HALFMOON_INLINE {
        sums[n / R][n % R] = V::Widen(sums[n / R][n % R], narrow[n / R][n % R]);
      });
    }
  });
}

/// One group of some tiles for R rows. `sub` is the group within its scale block.
template <typename V, WeightFormat F, int R, int kUnits>
HALFMOON_INLINE inline void MultiplyGroup(const TileCursor cursor[], int sub,
                                          const Int8Panel& panel, int g, int zero,
                                          typename V::Float acc[kUnits][R]) {
  using Format = TileFormat<F>;
  constexpr int kSplit = 16 / V::kLanes;
  constexpr int kParts = Format::kHalves ? 2 : 1;  // with scales of their own
  constexpr int kWords = 8 / kParts;
  Unroll<kParts>([&](int part) HALFMOON_INLINE {
    typename V::Int sums[kUnits][R];
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const int at = (g * kParts + part) * R + r;
      const auto start = Format::kHasMin ? V::Zero() : V::SetInts(panel.start[at]);
      Unroll<kUnits>([&](int u) HALFMOON_INLINE { sums[u][r] = start; });
    });
    MultiplyWords<V, F, R, kUnits, kWords>(cursor, part * kWords, panel.q + g * 32 * R, zero, sums);
    Unroll<kUnits>([&](int u) HALFMOON_INLINE {
      const auto d = LoadScale<V, F>(cursor[u / kSplit].scales, u % kSplit * V::kLanes, sub, part);
      Unroll<R>([&](int r) HALFMOON_INLINE {
        const auto a = V::SetFloats(panel.scale[g * R + r]);
        acc[u][r] = V::Fma(V::ToFloat(sums[u][r]), V::Mul(d, a), acc[u][r]);
      });
    });
  });
  if constexpr (Format::kHasMin) {
    Unroll<kUnits * kParts>([&](int n) HALFMOON_INLINE {
      const int u = n / kParts;
      const int part = n % kParts;
      const auto m =
          LoadMinimum<V, F>(cursor[u / kSplit].scales, u % kSplit * V::kLanes, sub, part);
      Unroll<R>([&](int r) HALFMOON_INLINE {
        const auto a_sum = V::SetFloats(panel.scaled_sum[(g * kParts + part) * R + r]);
        acc[u][r] =
            Format::kIsSuper ? V::NegativeFma(m, a_sum, acc[u][r]) : V::Fma(m, a_sum, acc[u][r]);
      });
    });
  }
}

/// Groups [g0, g0 + groups) of `kTiles` tiles for R rows; y holds the accumulators between panels.
/// g0 is a multiple of the groups of a scale block.
template <typename V, WeightFormat F, int R, int kTiles>
void MultiplyTiles(const MatMulArgs& args, const int64_t tiles[kTiles], int64_t first_row,
                   int64_t g0, int groups, const Int8Panel& panel) {
  using Format = TileFormat<F>;
  constexpr int kSplit = 16 / V::kLanes;
  constexpr int kUnits = kTiles * kSplit;
  TileCursor cursor[kTiles];
  Unroll<kTiles>([&](int i) HALFMOON_INLINE {
    const auto* tile = reinterpret_cast<const uint8_t*>(args.tiles) +
                       static_cast<size_t>(tiles[i]) * args.tile_bytes;
    cursor[i].quants = tile + g0 * Format::kGroupBytes;
    cursor[i].scales = tile + args.quant_bytes + g0 / Format::kScaleGroups * Format::kScaleBytes;
  });
  typename V::Float acc[kUnits][R];
  float* y[kUnits];
  int64_t outputs[kUnits];  // of the kLanes that exist; may be none
  Unroll<kUnits>([&](int u) HALFMOON_INLINE {
    const int64_t output = tiles[u / kSplit] * 16 + u % kSplit * V::kLanes;
    y[u] = args.y + first_row * args.y_stride + output;
    outputs[u] = args.n - output < V::kLanes ? args.n - output : V::kLanes;
    Unroll<R>([&](int r) HALFMOON_INLINE {
      acc[u][r] = g0 == 0 ? V::SetFloats(0.0f) : V::LoadPart(y[u] + r * args.y_stride, outputs[u]);
    });
  });
  for (int g = 0; g < groups;) {
    for (int sub = 0; sub < Format::kScaleGroups; ++sub, ++g) {
      Unroll<kTiles>([&](int i) HALFMOON_INLINE {
        Unroll<Format::kGroupBytes / 64>([&](int line) HALFMOON_INLINE {
          V::PrefetchL2(cursor[i].quants + 64 * line + kPrefetchBytes);
          if constexpr (R > 2) V::PrefetchL1(cursor[i].quants + 64 * line + kNearPrefetchBytes);
        });
      });
      MultiplyGroup<V, F, R, kUnits>(cursor, sub, panel, g, args.zero, acc);
      Unroll<kTiles>([&](int i) HALFMOON_INLINE { cursor[i].quants += Format::kGroupBytes; });
    }
    Unroll<kTiles>([&](int i) HALFMOON_INLINE { cursor[i].scales += Format::kScaleBytes; });
  }
  Unroll<kUnits>([&](int u) HALFMOON_INLINE {
    Unroll<R>([&](int r) HALFMOON_INLINE {
      V::StorePart(y[u] + r * args.y_stride, acc[u][r], outputs[u]);
    });
  });
}

template <typename V, WeightFormat F, int R>
void MultiplyRows(const MatMulArgs& args, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
  // With few rows, which wait for memory, several tiles at once are also several address streams,
  // one for each part of the range.
  constexpr int kTiles = V::template kTiles<R>;
  constexpr int kPanelGroups = kPanelSlots / R / 8 * 8;
  Int8Panel panel;
  for (int64_t g0 = 0; g0 < args.groups; g0 += kPanelGroups) {
    const int64_t left = args.groups - g0;
    const int groups = left < kPanelGroups ? static_cast<int>(left) : kPanelGroups;
    FillPanel<V, F, R>(args, first_row, g0, groups, &panel);
    int64_t t = tile_begin;
    if constexpr (kTiles > 1) {
      const int64_t part = (tile_end - tile_begin) / kTiles;
      for (int64_t i = 0; i < part; ++i) {
        int64_t tiles[kTiles];
        for (int stream = 0; stream < kTiles; ++stream) tiles[stream] = t + stream * part + i;
        MultiplyTiles<V, F, R, kTiles>(args, tiles, first_row, g0, groups, panel);
      }
      t += part * kTiles;
    }
    for (; t < tile_end; ++t) {
      MultiplyTiles<V, F, R, 1>(args, &t, first_row, g0, groups, panel);
    }
  }
}

template <typename V, WeightFormat F, int R>
void MultiplyUpToRows(const MatMulArgs& args, int64_t first_row, int64_t rows, int64_t tile_begin,
                      int64_t tile_end) {
  if constexpr (R > 1) {
    if (rows < R) {
      return MultiplyUpToRows<V, F, R - 1>(args, first_row, rows, tile_begin, tile_end);
    }
  }
  MultiplyRows<V, F, R>(args, first_row, tile_begin, tile_end);
}

template <typename V, WeightFormat F>
void MatMulInt8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (args.num_rows + V::kMaxRows - 1) / V::kMaxRows;
  // Even blocks: 5 rows run as 3 and 2, not as 4 and 1.
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = args.num_rows * b / blocks;
    const int64_t rows = args.num_rows * (b + 1) / blocks - first;
    MultiplyUpToRows<V, F, V::kMaxRows>(args, first, rows, tile_begin, tile_end);
  }
}

}  // namespace halfmoon::kernels::impl
