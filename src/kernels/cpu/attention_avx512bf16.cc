// SPDX-License-Identifier: Apache-2.0
// Attention to pages of kBF16, whose keys lie as pairs of dimensions and whose values as pairs of
// positions (paged_kv.h): a 32-bit lane holds a pair, and vdpbf16ps is its multiply-add. So the
// loop over values is that of attention_impl.h, over half as many rows. attention.h has the
// arithmetic.
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512bf16.h"
#include "kernels/cpu/vec_avx512.h"

namespace halfmoon::kernels::avx512bf16 {
namespace {

struct Pairs : avx512::Vec {
  static constexpr int kRowPositions = 2;

  /// c + the second of a times the second of b, + the first of a times the first of b.
  static F Fma(F a, F b, F c) {
    return _mm512_dpbf16_ps(c, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, b));
  }
};

constexpr __mmask32 kFirst = 0x55555555;
constexpr __mmask32 kSecond = 0xAAAAAAAA;

HALFMOON_INLINE inline __m512 Round(__m512 low, __m512 high) {
  return __builtin_bit_cast(__m512, _mm512_cvtne2ps_pbh(high, low));
}

// q times `factor`, rounded, as pairs; whole vectors are written.
void RoundQuery(const float* q, int head_dim, float factor, float* pairs) {
  const __m512 scale = _mm512_set1_ps(factor);
  for (int d = 0; d < head_dim; d += 32) {
    const auto half = [&](int begin) HALFMOON_INLINE {
      const int left = head_dim - begin < 0 ? 0 : head_dim - begin;
      const auto mask = static_cast<__mmask16>(left < 16 ? (1u << left) - 1u : 0xFFFFu);
      return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, q + begin), scale);
    };
    _mm512_storeu_ps(pairs + d / 2, Round(half(d), half(d + 16)));
  }
}

// 2^x for x <= 0, relative error 2^-13.7: a sixteenth of what rounding the result costs.
HALFMOON_INLINE inline __m512 Exp2(__m512 x) {
  constexpr int kBelow = 0x09;  // fraction above the next lower integer, without exceptions
  const __m512 f = _mm512_reduce_ps(x, kBelow);
  __m512 p = _mm512_set1_ps(kAttendExp2[3]);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kAttendExp2[2]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kAttendExp2[1]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kAttendExp2[0]));
  return _mm512_scalef_ps(p, x);
}

// Scores of all rows at N runs from position p on. An instruction waits about six cycles for its
// own sum and one starts each cycle; with the sums of one run of 8 rows the loop took 1.45 times as
// long as that over values, which has 16. Not inlined, because with the maxima in registers too GCC
// keeps the keys in memory.
template <int R, int N, bool kFetch>
[[gnu::noinline]] void ScoreRuns(const AttendArgs& args, int32_t p, int32_t end,
                                 impl::AttendBlock<R>* block, __m512 max[R]) {
  const std::byte* keys[N];
  const std::byte* next_keys[N];
  const std::byte* values[N];
  __m512 scores[N][R];
  Unroll<N>([&](int n) HALFMOON_INLINE {
    const int32_t at = p + n * kKvLane;
    const int32_t next = at + N * kKvLane;
    keys[n] = impl::KeysAt(args, at);
    next_keys[n] = impl::KeysAt(args, next < end ? next : at);
    values[n] = impl::ValuesAt(args, at);
    Unroll<R>([&](int r) HALFMOON_INLINE { scores[n][r] = _mm512_setzero_ps(); });
  });
  const int32_t pairs = args.head_dim / 2;
  const int64_t v_step = static_cast<int64_t>(args.v_row_bytes) * kKvLane / pairs;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m512bh k[N];
    Unroll<N>([&](int n) HALFMOON_INLINE {
      if constexpr (kFetch) {
        PrefetchL1(next_keys[n] + pair * 64);
        PrefetchL2(values[n] + pair * v_step);
      }
      k[n] = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(keys[n] + pair * 64));
    });
    const float* q = block->q + pair;
    Unroll<R>([&](int r) HALFMOON_INLINE {
      int32_t bits;
      __builtin_memcpy(&bits, q + r * kAttendMaxHeadDim, sizeof(bits));
      const auto query = __builtin_bit_cast(__m512bh, _mm512_set1_epi32(bits));
      Unroll<N>([&](int n) HALFMOON_INLINE {
        scores[n][r] = _mm512_dpbf16_ps(scores[n][r], query, k[n]);
      });
    });
  }
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  Unroll<N>([&](int n) HALFMOON_INLINE {
    impl::KeepScores<Pairs, R>(scores[n], p + n * kKvLane, split, block, max);
  });
}

template <int R, bool kFetch>
void Scores(const AttendArgs& args, impl::AttendBlock<R>* block, __m512 max[R]) {
  Unroll<R>([&](int r) HALFMOON_INLINE { max[r] = _mm512_set1_ps(-__builtin_inff()); });
  const int32_t end = block->any_end;
  int32_t p = block->any_begin / kKvLane * kKvLane;
  for (; p + kKvLane < end; p += 2 * kKvLane) ScoreRuns<R, 2, kFetch>(args, p, end, block, max);
  if (p < end) ScoreRuns<R, 1, kFetch>(args, p, end, block, max);
}

// Turns scores of positions [begin, end) into weights, in place: those of a pair of positions as a
// pair where the score of half its number was. Zero outside. Returns their sum.
float ToWeights(float* scores, int32_t begin, int32_t end, float max) {
  const __m512 m = _mm512_set1_ps(max);
  const __m512 none = _mm512_set1_ps(-__builtin_inff());
  const auto ones = __builtin_bit_cast(__m512bh, _mm512_set1_epi16(0x3F80));
  __m512 sum = _mm512_setzero_ps();
  for (int32_t p = begin / 32 * 32; p < end; p += 32) {
    const __m512 low = p + 16 > begin ? _mm512_loadu_ps(scores + p) : none;
    const __m512 high = p + 16 < end ? _mm512_loadu_ps(scores + p + 16) : none;
    const __m512 weights = Round(Exp2(_mm512_sub_ps(low, m)), Exp2(_mm512_sub_ps(high, m)));
    sum = _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, weights), ones);
    _mm512_storeu_ps(scores + p / 2, weights);
  }
  return Pairs::SumLanes(sum);
}

// The values of one half of a pair; what the other holds is not for this row, not even times zero.
void AddHalf(const AttendArgs& pairs, int32_t pair, __mmask32 half, float weight, float* state) {
  const std::byte* row = impl::ValuesAt(pairs, pair);
  const __m512 weights = _mm512_set1_ps(weight);
  for (int d = 0; d < pairs.value_dim; d += 16) {
    const __m512 v =
        _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(half, row + static_cast<size_t>(d) * 4));
    _mm512_storeu_ps(state + d, Pairs::Fma(weights, v, _mm512_loadu_ps(state + d)));
  }
}

// state += values of positions [begin, end) of the split for one row.
void AddValues(const AttendArgs& pairs, int32_t begin, int32_t end, const float* weights,
               float* state) {
  if (begin >= end) return;
  const int32_t first = pairs.begin / (kAttentionSplit / 2) * (kAttentionSplit / 2);
  if (begin % 2 == 1) {
    AddHalf(pairs, begin / 2, kSecond, weights[begin / 2 - first], state);
    ++begin;
  }
  impl::AttendValues<Pairs, KvType::kF32, 1, false>(pairs, begin / 2, end / 2, weights, &state);
  if (end % 2 == 1 && begin < end) {
    AddHalf(pairs, end / 2, kFirst, weights[end / 2 - first], state);
  }
}

template <int R, bool kFetch>
void AttendRows(const AttendArgs& args, int32_t first_row) {
  impl::AttendBlock<R> block;
  impl::StartBlock<Pairs>(args, first_row, &block);
  for (int r = 0; r < R; ++r) {
    RoundQuery(impl::QueryOf<Pairs>(args, first_row + r), args.head_dim, args.scale * kAttendLog2e,
               block.q + r * kAttendMaxHeadDim);
  }
  __m512 max[R];
  Scores<R, kFetch>(args, &block, max);
  const int32_t split = args.begin / kAttentionSplit * kAttentionSplit;
  for (int r = 0; r < R; ++r) {
    if (block.begin[r] >= block.end[r]) continue;
    const float row_max = Pairs::MaxLanes(max[r]);
    float* state = block.state[r];
    state[AttendStateMax(args.value_dim)] = row_max * kAttendLn2;
    state[AttendStateSum(args.value_dim)] = ToWeights(
        block.scores + r * kAttentionSplit, block.begin[r] - split, block.end[r] - split, row_max);
  }
  // From here on, rows of pages are pairs of positions.
  AttendArgs pairs = args;
  pairs.block_size /= 2;
  pairs.k_row_bytes *= 2;
  pairs.v_row_bytes *= 2;
  pairs.begin /= 2;
  pairs.fetch_end /= 2;
  // Pairs that only some rows see, or see half of, run row by row.
  const int32_t begin = (block.all_begin + 1) / 2 * 2;
  const int32_t end = block.all_end / 2 * 2;
  const bool shared = begin < end;
  for (int r = 0; r < R; ++r) {
    AddValues(pairs, block.begin[r], shared ? begin : block.end[r],
              block.scores + r * kAttentionSplit, block.state[r]);
  }
  if (!shared) return;
  impl::AttendValues<Pairs, KvType::kF32, R, kFetch>(pairs, begin / 2, end / 2, block.scores,
                                                     block.state);
  for (int r = 0; r < R; ++r) {
    AddValues(pairs, end, block.end[r], block.scores + r * kAttentionSplit, block.state[r]);
  }
}

}  // namespace

void Attend(const AttendArgs& args) {
  const bool pairs = args.k_type == KvType::kBF16 && args.v_type == KvType::kBF16 &&
                     AttendsPairs(args.head_dim, args.value_dim);
  if (!pairs) return avx512::Attend(args);
  impl::ForBlocks<Pairs>(
      args, [&]<int R, bool kFetch>(int32_t first) { AttendRows<R, kFetch>(args, first); });
}

}  // namespace halfmoon::kernels::avx512bf16
