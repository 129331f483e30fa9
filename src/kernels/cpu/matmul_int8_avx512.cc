// SPDX-License-Identifier: Apache-2.0
// int8 matmul on AVX-512 VNNI. vpdpbusd multiplies 16 output rows x 4 inputs by 4 inputs of one
// activation row, broadcast; weights are unsigned as stored, and accumulators start at -zero Σ a
// instead of being corrected.
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/int8_panel.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/tile_format.h"

namespace halfmoon::kernels::avx512 {
namespace {

struct Tag {};
using impl::Int8Panel;
using impl::kPanelSlots;

constexpr int kMaxRows = 8;
// Distance of the prefetch into L2. On a Zen 4 core with 4 streams: 25 GB/s (what its memory
// gives); none 23, into L1 4 KiB ahead 15; and 8 rows gain 40 %.
constexpr int kPrefetchBytes = 16384;

// Where a kernel stands in one tile.
struct TileCursor {
  const uint8_t* quants;
  const uint8_t* scales;
};

inline __m512i Words(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

inline __m512 HalfFloats(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512 Bf16Floats(const uint8_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __m512 Bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

inline __m512 SignedBytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// sums[r] += weights · activation words of step `word`.
template <int R>
HALFMOON_INLINE inline void Accumulate(__m512i weights, const int8_t* q, int word,
                                       __m512i sums[R]) {
  Unroll<R>([&](int r) HALFMOON_INLINE {
    sums[r] = _mm512_dpbusd_epi32(sums[r], weights, Words(q + (word * R + r) * 4));
  });
}

// The quants of word `word` of a group from their low 4 bits.
template <WeightFormat F>
HALFMOON_INLINE inline __m512i Complete(__m512i nibbles, const uint8_t* quants, int word) {
  using Format = TileFormat<F>;
  if constexpr (Format::kIsLookup) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Format::Table()));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles);
  } else if constexpr (Format::kHighBits > 0) {
    // Bits that a shift brings in from the byte beside fall outside the mask.
    const int shift = Format::HighBit(word) - 4;
    const __m512i bits = _mm512_loadu_si512(quants + Format::HighChunk(word));
    const __m512i moved = shift > 0 ? _mm512_srli_epi16(bits, static_cast<unsigned>(shift))
                                    : _mm512_slli_epi16(bits, static_cast<unsigned>(-shift));
    constexpr int kOrAnd = 0xF8;  // a | (b & c)
    return _mm512_ternarylogic_epi32(
        nibbles, moved, _mm512_set1_epi8(static_cast<char>(Format::kHighMask)), kOrAnd);
  } else {
    return nibbles;
  }
}

// One group of one tile for R rows. `sub` is the group within its scale block.
template <WeightFormat F, int R>
HALFMOON_INLINE inline void MultiplyGroup(const TileCursor& cursor, int sub, const Int8Panel& panel,
                                          int g, __m512 acc[R]) {
  using Format = TileFormat<F>;
  const int8_t* q = panel.q + g * 32 * R;
  const uint8_t* quants = cursor.quants;
  __m512i sums[R];
  __m512i second[R];  // the upper half of the group, where it has a scale of its own
  Unroll<R>([&](int r) HALFMOON_INLINE {
    if constexpr (Format::kHasMin) {
      sums[r] = second[r] = _mm512_setzero_si512();
    } else if constexpr (Format::kHalves) {
      sums[r] = _mm512_set1_epi32(panel.start[g * 2 * R + r]);
      second[r] = _mm512_set1_epi32(panel.start[g * 2 * R + R + r]);
    } else {
      sums[r] = _mm512_set1_epi32(panel.start[g * R + r]);
    }
  });
  if constexpr (Format::kHasNibbles) {
    const __m512i nibble = _mm512_set1_epi8(15);
    Unroll<4>([&](int chunk) HALFMOON_INLINE {
      _mm_prefetch(quants + 64 * chunk + kPrefetchBytes, _MM_HINT_T1);
      const __m512i packed = _mm512_loadu_si512(quants + 64 * chunk);
      const __m512i low = _mm512_and_si512(packed, nibble);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), nibble);
      __m512i* to = Format::kHalves && chunk >= 2 ? second : sums;
      Accumulate<R>(Complete<F>(low, quants, 2 * chunk), q, 2 * chunk, to);
      Accumulate<R>(Complete<F>(high, quants, 2 * chunk + 1), q, 2 * chunk + 1, to);
    });
    Unroll<Format::kHighBits>([&](int chunk) HALFMOON_INLINE {
      _mm_prefetch(quants + Format::kHighOffset + 64 * chunk + kPrefetchBytes, _MM_HINT_T1);
    });
  } else {
    Unroll<8>([&](int chunk) HALFMOON_INLINE {
      _mm_prefetch(quants + 64 * chunk + kPrefetchBytes, _MM_HINT_T1);
      Accumulate<R>(_mm512_loadu_si512(quants + 64 * chunk), q, chunk, sums);
    });
  }
  const uint8_t* scales = cursor.scales;
  __m512 d = Format::kHasBf16Scale ? Bf16Floats(scales) : HalfFloats(scales);
  if constexpr (Format::kHalves) {
    const uint8_t* sc = scales + Format::kScOffset + 32 * sub;
    const __m512 d_first = _mm512_mul_ps(d, Format::kHasMin ? Bytes(sc) : SignedBytes(sc));
    const __m512 d_second =
        _mm512_mul_ps(d, Format::kHasMin ? Bytes(sc + 16) : SignedBytes(sc + 16));
    __m512 m_first = _mm512_setzero_ps();
    __m512 m_second = m_first;
    if constexpr (Format::kHasMin) {
      const __m512 m = HalfFloats(scales + Format::kMinOffset);
      const uint8_t* mn = scales + Format::kMnOffset + 32 * sub;
      m_first = _mm512_mul_ps(m, Bytes(mn));
      m_second = _mm512_mul_ps(m, Bytes(mn + 16));
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const __m512 a = _mm512_set1_ps(panel.scale[g * R + r]);
      acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), _mm512_mul_ps(d_first, a), acc[r]);
      acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[r]), _mm512_mul_ps(d_second, a), acc[r]);
      if constexpr (Format::kHasMin) {
        const float* a_sum = panel.scaled_sum + g * 2 * R + r;
        acc[r] = _mm512_fnmadd_ps(m_first, _mm512_set1_ps(a_sum[0]), acc[r]);
        acc[r] = _mm512_fnmadd_ps(m_second, _mm512_set1_ps(a_sum[R]), acc[r]);
      }
    });
  } else {
    __m512 m = _mm512_setzero_ps();
    if constexpr (Format::kHasMin) m = HalfFloats(scales + Format::kMinOffset);
    if constexpr (Format::kIsSuper && !Format::kHasMin) {
      d = _mm512_mul_ps(d, SignedBytes(scales + Format::kScOffset + 16 * sub));
    } else if constexpr (Format::kIsSuper) {
      d = _mm512_mul_ps(d, Bytes(scales + Format::kScOffset + 16 * sub));
      m = _mm512_mul_ps(m, Bytes(scales + Format::kMnOffset + 16 * sub));
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const __m512 a = _mm512_set1_ps(panel.scale[g * R + r]);
      acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), _mm512_mul_ps(d, a), acc[r]);
      if constexpr (Format::kHasMin) {
        const __m512 a_sum = _mm512_set1_ps(panel.scaled_sum[g * R + r]);
        acc[r] = Format::kIsSuper ? _mm512_fnmadd_ps(m, a_sum, acc[r])
                                  : _mm512_fmadd_ps(m, a_sum, acc[r]);
      }
    });
  }
}

// Groups [g0, g0 + groups) of `kTiles` tiles for R rows; y holds the accumulators between panels.
// g0 is a multiple of the groups of a scale block.
template <WeightFormat F, int R, int kTiles>
void MultiplyTiles(const MatMulArgs& args, const int64_t tiles[kTiles], int64_t first_row,
                   int64_t g0, int groups, const Int8Panel& panel) {
  using Format = TileFormat<F>;
  TileCursor cursor[kTiles];
  __mmask16 outputs[kTiles];
  float* y[kTiles];
  __m512 acc[kTiles][R];
  Unroll<kTiles>([&](int i) HALFMOON_INLINE {
    const auto* tile = reinterpret_cast<const uint8_t*>(args.tiles) +
                       static_cast<size_t>(tiles[i]) * args.tile_bytes;
    cursor[i].quants = tile + g0 * Format::kGroupBytes;
    cursor[i].scales = tile + args.quant_bytes + g0 / Format::kScaleGroups * Format::kScaleBytes;
    const int64_t count = args.n - tiles[i] * 16;
    outputs[i] = static_cast<__mmask16>(count >= 16 ? 0xFFFFu : (1u << count) - 1u);
    y[i] = args.y + first_row * args.y_stride + tiles[i] * 16;
    Unroll<R>([&](int r) HALFMOON_INLINE {
      acc[i][r] = g0 == 0 ? _mm512_setzero_ps()
                          : _mm512_maskz_loadu_ps(outputs[i], y[i] + r * args.y_stride);
    });
  });
  for (int g = 0; g < groups;) {
    for (int sub = 0; sub < Format::kScaleGroups; ++sub, ++g) {
      Unroll<kTiles>([&](int i) HALFMOON_INLINE {
        MultiplyGroup<F, R>(cursor[i], sub, panel, g, acc[i]);
        cursor[i].quants += Format::kGroupBytes;
      });
    }
    Unroll<kTiles>([&](int i) HALFMOON_INLINE { cursor[i].scales += Format::kScaleBytes; });
  }
  Unroll<kTiles>([&](int i) HALFMOON_INLINE {
    Unroll<R>([&](int r) HALFMOON_INLINE {
      _mm512_mask_storeu_ps(y[i] + r * args.y_stride, outputs[i], acc[i][r]);
    });
  });
}

template <WeightFormat F, int R>
void MultiplyRows(const MatMulArgs& args, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
  // Few rows wait for memory: several tiles at once are several address streams, one per part of
  // the range, and as many independent chains of sums. More rows would spill registers.
  constexpr int kTiles = R <= 4 ? 4 : 1;
  constexpr int kPanelGroups = kPanelSlots / R / 8 * 8;
  Int8Panel panel;
  for (int64_t g0 = 0; g0 < args.groups; g0 += kPanelGroups) {
    const int64_t left = args.groups - g0;
    const int groups = left < kPanelGroups ? static_cast<int>(left) : kPanelGroups;
    impl::FillPanel<Tag, F, R>(args, first_row, g0, groups, &panel);
    int64_t t = tile_begin;
    if constexpr (kTiles > 1) {
      const int64_t part = (tile_end - tile_begin) / kTiles;
      for (int64_t i = 0; i < part; ++i) {
        int64_t tiles[kTiles];
        for (int stream = 0; stream < kTiles; ++stream) tiles[stream] = t + stream * part + i;
        MultiplyTiles<F, R, kTiles>(args, tiles, first_row, g0, groups, panel);
      }
      t += part * kTiles;
    }
    for (; t < tile_end; ++t) {
      MultiplyTiles<F, R, 1>(args, &t, first_row, g0, groups, panel);
    }
  }
}

template <WeightFormat F, int R>
void MultiplyUpTo(const MatMulArgs& args, int64_t first_row, int64_t rows, int64_t tile_begin,
                  int64_t tile_end) {
  if constexpr (R > 1) {
    if (rows < R) return MultiplyUpTo<F, R - 1>(args, first_row, rows, tile_begin, tile_end);
  }
  MultiplyRows<F, R>(args, first_row, tile_begin, tile_end);
}

template <WeightFormat F>
void MatMulInt8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (args.num_rows + kMaxRows - 1) / kMaxRows;
  // Even blocks: 9 rows run as 5 and 4, not as 8 and 1.
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = args.num_rows * b / blocks;
    const int64_t rows = args.num_rows * (b + 1) / blocks - first;
    MultiplyUpTo<F, kMaxRows>(args, first, rows, tile_begin, tile_end);
  }
}

}  // namespace

constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return MatMulInt8<F>; });

}  // namespace halfmoon::kernels::avx512
