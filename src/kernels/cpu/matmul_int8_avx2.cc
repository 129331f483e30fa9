// SPDX-License-Identifier: Apache-2.0
// int8 matmul on AVX2. vpmaddubsw multiplies 8 output rows x 4 inputs by 4 inputs of one activation
// row, broadcast, and adds neighbours in 16 bits; how many of those sums fit before they widen to
// 32 bits follows from the range of the weights, so that every sum is exact.
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/int8_panel.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/tile_format.h"

namespace halfmoon::kernels::avx2 {
namespace {

struct Tag {};
using impl::Int8Panel;
using impl::kPanelSlots;

constexpr int kMaxRows = 4;
constexpr int kPrefetchBytes = 16384;  // as in matmul_int8_avx512.cc

// Words (4 inputs) whose 16-bit sums hold without overflow: a pair is at most 2 * 127 * max(q).
template <WeightFormat F>
constexpr int kWordsPerSum = TileFormat<F>::kMaxQuant <= 15   ? (TileFormat<F>::kHalves ? 4 : 8)
                             : TileFormat<F>::kMaxQuant <= 31 ? 4   // 4 * 7874
                             : TileFormat<F>::kMaxQuant <= 63 ? 2   // 2 * 16002
                                                              : 1;  // |q - zero| <= 128: 32512

inline __m256i Words(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

inline __m256 HalfFloats(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256 Bf16Floats(const uint8_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

inline __m256 Bytes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

inline __m256 SignedBytes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// 8 output rows x 4 inputs of step `word` of a group.
template <WeightFormat F>
HALFMOON_INLINE inline __m256i Weights(const uint8_t* quants, int word) {
  using Format = TileFormat<F>;
  const auto load = [&](int offset) HALFMOON_INLINE {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + offset));
  };
  if constexpr (!Format::kHasNibbles) return load(word * 64);
  __m256i packed = load(word / 2 * 64);
  if (word % 2 == 1) packed = _mm256_srli_epi16(packed, 4);
  const __m256i nibbles = _mm256_and_si256(packed, _mm256_set1_epi8(15));
  if constexpr (Format::kIsLookup) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Format::Table()));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
  } else if constexpr (Format::kHighBits > 0) {
    // Bits that a shift brings in from the byte beside fall outside the mask.
    const int shift = Format::HighBit(word) - 4;
    const __m256i bits = load(Format::HighChunk(word));
    const __m256i moved =
        shift > 0 ? _mm256_srli_epi16(bits, shift) : _mm256_slli_epi16(bits, -shift);
    const __m256i mask = _mm256_set1_epi8(static_cast<char>(Format::kHighMask));
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, mask));
  } else {
    return nibbles;
  }
}

// sums[r] += Σ weights · activations over steps [word, word + kWords) of a group, in 32 bits.
template <WeightFormat F, int R, int kWords>
HALFMOON_INLINE inline void Accumulate(const MatMulArgs& args, const uint8_t* quants,
                                       const int8_t* q, int word, __m256i sums[R]) {
  constexpr bool kSigned = kWordsPerSum<F> == 1;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[R];
  Unroll<kWords>([&](int i) HALFMOON_INLINE {
    __m256i weights = Weights<F>(quants, word + i);
    __m256i size = weights;
    if constexpr (kSigned) {
      weights = _mm256_sub_epi8(weights, _mm256_set1_epi8(static_cast<char>(args.zero)));
      size = _mm256_abs_epi8(weights);
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      __m256i a = Words(q + ((word + i) * R + r) * 4);
      // |w| times a with the sign of w: a is at least -127, so its negative fits.
      if constexpr (kSigned) a = _mm256_sign_epi8(a, weights);
      const __m256i products = _mm256_maddubs_epi16(size, a);
      pairs[r] = i == 0 ? products : _mm256_add_epi16(pairs[r], products);
    });
  });
  Unroll<R>([&](int r) HALFMOON_INLINE {
    sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(pairs[r], ones));
  });
}

// One group of 8 rows of a tile for R activation rows. `scales` and `sub` as in MultiplyTile.
template <WeightFormat F, int R>
HALFMOON_INLINE inline void MultiplyGroup(const MatMulArgs& args, const uint8_t* quants,
                                          const uint8_t* scales, int half, int sub,
                                          const Int8Panel& panel, int g, __m256 acc[R]) {
  using Format = TileFormat<F>;
  constexpr bool kSigned = kWordsPerSum<F> == 1;
  const int8_t* q = panel.q + g * 32 * R;
  __m256i sums[R];
  __m256i second[R];  // the upper half of the group, where it has a scale of its own
  Unroll<R>([&](int r) HALFMOON_INLINE {
    if constexpr (Format::kHasMin || kSigned) {
      sums[r] = second[r] = _mm256_setzero_si256();
    } else if constexpr (Format::kHalves) {
      sums[r] = _mm256_set1_epi32(panel.start[g * 2 * R + r]);
      second[r] = _mm256_set1_epi32(panel.start[g * 2 * R + R + r]);
    } else {
      sums[r] = _mm256_set1_epi32(panel.start[g * R + r]);
    }
  });
  constexpr int kWords = kWordsPerSum<F>;
  Unroll<8 / kWords>([&](int step) HALFMOON_INLINE {
    const int word = kWords * step;
    Accumulate<F, R, kWords>(args, quants, q, word, Format::kHalves && word >= 4 ? second : sums);
  });
  __m256 d =
      Format::kHasBf16Scale ? Bf16Floats(scales + 16 * half) : HalfFloats(scales + 16 * half);
  if constexpr (Format::kHalves) {
    const uint8_t* sc = scales + Format::kScOffset + 32 * sub + 8 * half;
    const __m256 d_first = _mm256_mul_ps(d, Format::kHasMin ? Bytes(sc) : SignedBytes(sc));
    const __m256 d_second =
        _mm256_mul_ps(d, Format::kHasMin ? Bytes(sc + 16) : SignedBytes(sc + 16));
    __m256 m_first = _mm256_setzero_ps();
    __m256 m_second = m_first;
    if constexpr (Format::kHasMin) {
      const __m256 m = HalfFloats(scales + Format::kMinOffset + 16 * half);
      const uint8_t* mn = scales + Format::kMnOffset + 32 * sub + 8 * half;
      m_first = _mm256_mul_ps(m, Bytes(mn));
      m_second = _mm256_mul_ps(m, Bytes(mn + 16));
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const __m256 a = _mm256_set1_ps(panel.scale[g * R + r]);
      acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r]), _mm256_mul_ps(d_first, a), acc[r]);
      acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second[r]), _mm256_mul_ps(d_second, a), acc[r]);
      if constexpr (Format::kHasMin) {
        const float* a_sum = panel.scaled_sum + g * 2 * R + r;
        acc[r] = _mm256_fnmadd_ps(m_first, _mm256_set1_ps(a_sum[0]), acc[r]);
        acc[r] = _mm256_fnmadd_ps(m_second, _mm256_set1_ps(a_sum[R]), acc[r]);
      }
    });
  } else {
    __m256 m = _mm256_setzero_ps();
    if constexpr (Format::kHasMin) m = HalfFloats(scales + Format::kMinOffset + 16 * half);
    if constexpr (Format::kIsSuper && !Format::kHasMin) {
      d = _mm256_mul_ps(d, SignedBytes(scales + Format::kScOffset + 16 * sub + 8 * half));
    } else if constexpr (Format::kIsSuper) {
      d = _mm256_mul_ps(d, Bytes(scales + Format::kScOffset + 16 * sub + 8 * half));
      m = _mm256_mul_ps(m, Bytes(scales + Format::kMnOffset + 16 * sub + 8 * half));
    }
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const __m256 a = _mm256_set1_ps(panel.scale[g * R + r]);
      acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r]), _mm256_mul_ps(d, a), acc[r]);
      if constexpr (Format::kHasMin) {
        const __m256 a_sum = _mm256_set1_ps(panel.scaled_sum[g * R + r]);
        acc[r] = Format::kIsSuper ? _mm256_fnmadd_ps(m, a_sum, acc[r])
                                  : _mm256_fmadd_ps(m, a_sum, acc[r]);
      }
    });
  }
}

// y[0 .. count), count at most 8 and possibly negative.
inline __m256i OutputMask(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count > 8 ? 8 : count)), lane);
}

// Groups [g0, g0 + groups) of a tile for R rows; y holds the accumulators between panels. g0 is a
// multiple of the groups of a scale block.
template <WeightFormat F, int R>
void MultiplyTile(const MatMulArgs& args, int64_t t, int64_t first_row, int64_t g0, int groups,
                  const Int8Panel& panel) {
  using Format = TileFormat<F>;
  const auto* tile =
      reinterpret_cast<const uint8_t*>(args.tiles) + static_cast<size_t>(t) * args.tile_bytes;
  const uint8_t* quants = tile + g0 * Format::kGroupBytes;
  const uint8_t* scales = tile + args.quant_bytes + g0 / Format::kScaleGroups * Format::kScaleBytes;
  float* y = args.y + first_row * args.y_stride + t * 16;
  __m256 acc[2][R];
  Unroll<2>([&](int half) HALFMOON_INLINE {
    const __m256i outputs = OutputMask(args.n - t * 16 - 8 * half);
    Unroll<R>([&](int r) HALFMOON_INLINE {
      acc[half][r] = g0 == 0 ? _mm256_setzero_ps()
                             : _mm256_maskload_ps(y + r * args.y_stride + 8 * half, outputs);
    });
  });
  for (int g = 0; g < groups;) {
    for (int sub = 0; sub < Format::kScaleGroups; ++sub, ++g) {
      Unroll<Format::kGroupBytes / 64>([&](int step) HALFMOON_INLINE {
        const int line = 64 * step;
        _mm_prefetch(quants + line + kPrefetchBytes, _MM_HINT_T1);
      });
      Unroll<2>([&](int half) HALFMOON_INLINE {
        MultiplyGroup<F, R>(args, quants + 32 * half, scales, half, sub, panel, g, acc[half]);
      });
      quants += Format::kGroupBytes;
    }
    scales += Format::kScaleBytes;
  }
  Unroll<2>([&](int half) HALFMOON_INLINE {
    const __m256i outputs = OutputMask(args.n - t * 16 - 8 * half);
    Unroll<R>([&](int r) HALFMOON_INLINE {
      _mm256_maskstore_ps(y + r * args.y_stride + 8 * half, outputs, acc[half][r]);
    });
  });
}

template <WeightFormat F, int R>
void MultiplyUpTo(const MatMulArgs& args, int64_t first_row, int64_t rows, int64_t tile_begin,
                  int64_t tile_end) {
  if constexpr (R > 1) {
    if (rows < R) return MultiplyUpTo<F, R - 1>(args, first_row, rows, tile_begin, tile_end);
  }
  constexpr int kPanelGroups = kPanelSlots / R / 8 * 8;
  Int8Panel panel;
  for (int64_t g0 = 0; g0 < args.groups; g0 += kPanelGroups) {
    const int64_t left = args.groups - g0;
    const int groups = left < kPanelGroups ? static_cast<int>(left) : kPanelGroups;
    impl::FillPanel<Tag, F, R>(args, first_row, g0, groups, &panel);
    for (int64_t t = tile_begin; t < tile_end; ++t) {
      MultiplyTile<F, R>(args, t, first_row, g0, groups, panel);
    }
  }
}

template <WeightFormat F>
void MatMulInt8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (args.num_rows + kMaxRows - 1) / kMaxRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = args.num_rows * b / blocks;
    const int64_t rows = args.num_rows * (b + 1) / blocks - first;
    MultiplyUpTo<F, kMaxRows>(args, first, rows, tile_begin, tile_end);
  }
}

}  // namespace

constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return MatMulInt8<F>; });

}  // namespace halfmoon::kernels::avx2
