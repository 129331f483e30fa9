// SPDX-License-Identifier: Apache-2.0
// Weights of kF8 and activations in bfloat16. Every E4M3 number is a bfloat16 number, so 128 inputs
// of a tile, those that share scales, are decoded to pairs in L1 without rounding, and their scales
// meet the sums of 128 products.
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/pair_avx512bf16.h"

namespace halfmoon::kernels::avx512bf16 {
namespace {

// A group and a half of each tile: from 8 KiB, as far as kBF16 looks ahead, one thread read 0.83
// times as fast.
constexpr int64_t kPrefetchBytes = 3072;

constexpr int64_t kGroupPairs = kF8Group / 2;

// The upper and the lower byte of the bfloat16 number that is a 256th of what the lower 7 bits of a
// code stand for: scales are 256 times as large (packed_matrix.h).
struct Halves {
  uint8_t low[128];
  uint8_t high[128];
};
constexpr Halves kHalves = [] {
  Halves halves{};
  for (unsigned code = 1; code < 128; ++code) {
    unsigned exponent = 112 + (code >> 3);
    unsigned mantissa = code & 7;
    if (code < 8) {
      // Below the normal numbers of E4M3, but not of bfloat16.
      for (exponent = 113; mantissa < 8; --exponent) mantissa *= 2;
      mantissa -= 8;
    }
    const unsigned bits = exponent << 7 | mantissa << 4;
    halves.low[code] = static_cast<uint8_t>(bits);
    halves.high[code] = static_cast<uint8_t>(bits >> 8);
  }
  return halves;
}();

struct Decoder {
  __m512i low[2], high[2], sign;

  Decoder() : sign(_mm512_set1_epi8(static_cast<char>(0x80))) {
    Unroll<2>([&](int i) HALFMOON_INLINE {
      low[i] = _mm512_loadu_si512(kHalves.low + 64 * i);
      high[i] = _mm512_loadu_si512(kHalves.high + 64 * i);
    });
  }

  // Four inputs of each row as two pairs of each row.
  HALFMOON_INLINE void Decode(const std::byte* codes, std::byte* pairs) const {
    const __m512i code = _mm512_loadu_si512(codes);
    constexpr int kOrAnd = 0xF8;  // a | (b & c)
    const __m512i lower = _mm512_permutex2var_epi8(low[0], code, low[1]);
    const __m512i upper = _mm512_ternarylogic_epi32(
        _mm512_permutex2var_epi8(high[0], code, high[1]), code, sign, kOrAnd);
    // In each quarter, both pairs of two rows and of the next two.
    const __m512 first = _mm512_castsi512_ps(_mm512_unpacklo_epi8(lower, upper));
    const __m512 second = _mm512_castsi512_ps(_mm512_unpackhi_epi8(lower, upper));
    _mm512_storeu_ps(pairs, _mm512_shuffle_ps(first, second, 0x88));
    _mm512_storeu_ps(pairs + 64, _mm512_shuffle_ps(first, second, 0xDD));
  }
};

// A group of inputs of T tiles, decoded.
template <int T>
struct Group {
  alignas(64) std::byte pairs[T][kGroupPairs * 64];
  const std::byte* scales[T];
  int64_t num_pairs;
  bool continues;        // sums of earlier groups are in y
  int64_t last_outputs;  // of the last tile
};

// R rows of x against T tiles; y is the first row's place of the first tile's outputs.
template <int R, int T>
void Multiply(const Group<T>& group, const uint16_t* const x[], float* y, int64_t y_stride) {
  __m512 sums[T][R];
  const uint16_t* row[R];
  Unroll<R>([&](int r) HALFMOON_INLINE {
    row[r] = x[r];
    Unroll<T>([&](int t) HALFMOON_INLINE { sums[t][r] = _mm512_setzero_ps(); });
  });
  for (int64_t p = 0; p < group.num_pairs; ++p) {
    __m512bh w[T];
    Unroll<T>([&](int t) HALFMOON_INLINE {
      w[t] = __builtin_bit_cast(__m512bh, _mm512_load_si512(group.pairs[t] + p * 64));
    });
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const auto pair = __builtin_bit_cast(__m512bh, BroadcastPair(row[r] + 2 * p));
      Unroll<T>([&](int t)
                    HALFMOON_INLINE { sums[t][r] = _mm512_dpbf16_ps(sums[t][r], pair, w[t]); });
    });
  }
  Unroll<T>([&](int t) HALFMOON_INLINE {
    const __m512 scale = _mm512_loadu_ps(group.scales[t]);
    const auto outputs =
        static_cast<__mmask16>(t == T - 1 ? (1u << group.last_outputs) - 1u : 0xFFFFu);
    Unroll<R>([&](int r) HALFMOON_INLINE {
      float* out = y + r * y_stride + t * 16;
      const __m512 before =
          group.continues ? _mm512_maskz_loadu_ps(outputs, out) : _mm512_setzero_ps();
      _mm512_mask_storeu_ps(out, outputs, _mm512_fmadd_ps(sums[t][r], scale, before));
    });
  });
}

template <int R, int T>
void MultiplyUpTo(int64_t rows, const Group<T>& group, const uint16_t* const x[], float* y,
                  int64_t y_stride) {
  if constexpr (R > 1) {
    if (rows < R) return MultiplyUpTo<R - 1, T>(rows, group, x, y, y_stride);
  }
  Multiply<R, T>(group, x, y, y_stride);
}

// All rows of the job over T tiles from `tile` on, in blocks of up to R rows. Not inlined, so that
// each shape has the registers to itself.
template <int R, int T>
[[gnu::noinline]] void MultiplyTiles(const MatMulArgs& args, const Decoder& decoder, int64_t tile) {
  const int64_t left = args.n - (tile + T - 1) * 16;
  const int64_t blocks = (args.num_rows + R - 1) / R;
  const std::byte* tiles = args.tiles + static_cast<size_t>(tile) * args.tile_bytes;
  Group<T> group;
  group.last_outputs = left < 16 ? left : 16;
  for (int64_t k = 0; k < args.k; k += kF8Group) {
    const int64_t inputs = args.k - k < kF8Group ? args.k - k : kF8Group;
    group.num_pairs = (inputs + 1) / 2;
    group.continues = k > 0;
    Unroll<T>([&](int t) HALFMOON_INLINE {
      const std::byte* bytes = tiles + static_cast<size_t>(t) * args.tile_bytes;
      const std::byte* codes = bytes + k * 16;
      group.scales[t] = bytes + args.quant_bytes + k / kF8Group * 64;
      for (int64_t i = 0; i < inputs; i += 4) {
        PrefetchL2(codes + i * 16 + kPrefetchBytes);
        decoder.Decode(codes + i * 16, group.pairs[t] + i * 32);
      }
    });
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = args.num_rows * b / blocks;
      const int64_t rows = args.num_rows * (b + 1) / blocks - first;
      const uint16_t* x[R];
      for (int64_t r = 0; r < rows; ++r) x[r] = Bf16Row(args, first + r) + k;
      MultiplyUpTo<R, T>(rows, group, x, args.y + first * args.y_stride + tile * 16, args.y_stride);
    }
  }
}

}  // namespace

void MatMulF8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  const Decoder decoder;
  ForTiles(args.num_rows, tile_begin, tile_end,
           [&]<int R, int T>(int64_t tile) { MultiplyTiles<R, T>(args, decoder, tile); });
}

}  // namespace halfmoon::kernels::avx512bf16
