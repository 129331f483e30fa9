// SPDX-License-Identifier: Apache-2.0
// Weights of kBF16 lie as vdpbf16ps takes them: a lane holds two inputs of an output row
// (docs/formats/packed_matrix.md). So nothing is decoded: a load of 64 bytes of weights meets each
// activation row's pair, broadcast.
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/pair_avx512bf16.h"

namespace halfmoon::kernels::avx512bf16 {
namespace {

// Pairs of inputs between which sums move to y: 64 KiB of each tile stay in L2 for all rows.
constexpr int64_t kPanelPairs = 1024;
// As for int8 (matmul_int8_impl.h).
constexpr int64_t kPrefetchBytes = 16384;

struct Panel {
  const std::byte* tile;  // the first tile's, at its first pair
  int64_t pairs;
  bool continues;        // sums of earlier pairs are in y
  int64_t last_outputs;  // of the last tile
};

// R rows of x against T tiles; y is the first row's place of the first tile's outputs.
template <int R, int T>
void Multiply(const MatMulArgs& args, const Panel& panel, const uint16_t* const x[], float* y) {
  __m512 sums[T][R];
  const auto last = static_cast<__mmask16>((1u << panel.last_outputs) - 1u);
  const auto outputs = [&](int t) HALFMOON_INLINE {
    return t == T - 1 ? last : static_cast<__mmask16>(0xFFFF);
  };
  const uint16_t* row[R];
  Unroll<R>([&](int r) HALFMOON_INLINE {
    row[r] = x[r];
    Unroll<T>([&](int t) HALFMOON_INLINE {
      sums[t][r] = panel.continues
                       ? _mm512_maskz_loadu_ps(outputs(t), y + r * args.y_stride + t * 16)
                       : _mm512_setzero_ps();
    });
  });
  const std::byte* weights = panel.tile;
  for (int64_t p = 0; p < panel.pairs; ++p) {
    __m512bh w[T];
    Unroll<T>([&](int t) HALFMOON_INLINE {
      const std::byte* at = weights + static_cast<size_t>(t) * args.tile_bytes;
      PrefetchL2(at + kPrefetchBytes);
      w[t] = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(at));
    });
    Unroll<R>([&](int r) HALFMOON_INLINE {
      const auto pair = __builtin_bit_cast(__m512bh, BroadcastPair(row[r] + 2 * p));
      Unroll<T>([&](int t)
                    HALFMOON_INLINE { sums[t][r] = _mm512_dpbf16_ps(sums[t][r], pair, w[t]); });
    });
    weights += 64;
  }
  Unroll<R>([&](int r) HALFMOON_INLINE {
    Unroll<T>([&](int t) HALFMOON_INLINE {
      _mm512_mask_storeu_ps(y + r * args.y_stride + t * 16, outputs(t), sums[t][r]);
    });
  });
}

template <int R, int T>
void MultiplyUpTo(int64_t rows, const MatMulArgs& args, const Panel& panel,
                  const uint16_t* const x[], float* y) {
  if constexpr (R > 1) {
    if (rows < R) return MultiplyUpTo<R - 1, T>(rows, args, panel, x, y);
  }
  Multiply<R, T>(args, panel, x, y);
}

// All rows of the job over T tiles from `tile` on, in blocks of up to R rows.
template <int R, int T>
void MultiplyTiles(const MatMulArgs& args, int64_t tile) {
  const int64_t all_pairs = (args.k + 1) / 2;
  const int64_t left = args.n - (tile + T - 1) * 16;
  const int64_t blocks = (args.num_rows + R - 1) / R;
  for (int64_t pair = 0; pair < all_pairs; pair += kPanelPairs) {
    const int64_t rest = all_pairs - pair;
    const Panel panel{.tile = args.tiles + static_cast<size_t>(tile) * args.tile_bytes +
                              static_cast<size_t>(pair) * 64,
                      .pairs = rest < kPanelPairs ? rest : kPanelPairs,
                      .continues = pair > 0,
                      .last_outputs = left < 16 ? left : 16};
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = args.num_rows * b / blocks;
      const int64_t rows = args.num_rows * (b + 1) / blocks - first;
      const uint16_t* x[R];
      for (int64_t r = 0; r < rows; ++r) x[r] = Bf16Row(args, first + r) + 2 * pair;
      MultiplyUpTo<R, T>(rows, args, panel, x, args.y + first * args.y_stride + tile * 16);
    }
  }
}

}  // namespace

void MatMulBf16(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  ForTiles(args.num_rows, tile_begin, tile_end,
           [&]<int R, int T>(int64_t tile) { MultiplyTiles<R, T>(args, tile); });
}

void RoundRow(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; i += 16) {
    const int64_t left = k - i < 16 ? k - i : 16;
    const auto inputs = static_cast<__mmask16>((1u << left) - 1u);
    const auto outputs = static_cast<__mmask16>((1u << (left + left % 2)) - 1u);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inputs, x + i));
    _mm256_mask_storeu_epi16(out + i, outputs, __builtin_bit_cast(__m256i, rounded));
  }
}

}  // namespace halfmoon::kernels::avx512bf16
