// SPDX-License-Identifier: Apache-2.0
// Attention on pairs of bfloat16 against a plain model of what attention.h promises, and against
// the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>

#include "kernels/attention.h"
#include "kernels/exp.h"
#include "kernels/registry.h"
#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

std::vector<Isa> IsasWithBf16() {
  std::vector<Isa> isas = AvailableIsas();
  std::erase_if(isas, [](Isa isa) { return !KernelsFor(isa).attend_bf16; });
  return isas;
}

struct Case {
  int heads = 1;  // of one KV head
  int head_dim = 32;
  int block_size = 16;
  int window = 0;
  float scale = 0.17f;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "heads " << c.heads << " D " << c.head_dim << " block " << c.block_size
             << " window " << c.window << " scale " << c.scale;
}

constexpr Case kCases[] = {
    {1, 32, 16, 0}, {8, 128, 64, 0}, {3, 80, 32, 0},   {9, 16, 16, 0},  {2, 64, 32, 100},
    {1, 32, 16, 1}, {4, 48, 16, 33}, {5, 32, 64, 300}, {2, 640, 16, 0}, {3, 32, 16, 0, 20.0f}};

/// One sequence in pages of shuffled order; unwritten slots hold NaN.
class Fixture {
 public:
  Fixture(const Case& c, int length) : case_(c), length_(length) {
    const auto n = static_cast<size_t>(length * c.head_dim);
    k_ = StoredKv(KvType::kBF16, RandomFloats(n, 1), c.head_dim);
    v_ = StoredKv(KvType::kBF16, RandomFloats(n, 2), c.head_dim);
    q_ = RandomFloats(n * static_cast<size_t>(c.heads), 3);
  }

  /// Rows of heads of positions [start, start + count).
  std::vector<float> Attend(Isa isa, int threads, int start, int count) {
    const KvLayout layout{2, 1, case_.head_dim, case_.block_size, KvType::kBF16, KvType::kBF16};
    const AttentionShape shape{case_.heads, case_.head_dim, case_.scale, case_.window};
    ThreadPool pool(threads);
    const Stream stream(pool, isa);
    std::vector<int32_t> table(
        static_cast<size_t>((length_ + case_.block_size - 1) / case_.block_size));
    std::iota(table.rbegin(), table.rend(), 0);
    tensor::AlignedBuffer memory(table.size() * layout.page_bytes());
    std::fill_n(memory.data(), memory.size_bytes(), std::byte{0xFF});
    const int end = start + count;
    const int64_t dim = case_.head_dim;
    const int64_t row = case_.heads * dim;
    const AttentionSequence whole{0, end, 0, {memory.data(), table}};
    WriteKv(stream, layout, 1, {&whole, 1}, {k_.data(), end, dim}, {v_.data(), end, dim});
    const AttentionSequence sequence{0, count, start, {memory.data(), table}};
    std::vector<float> out(static_cast<size_t>(count * row));
    std::vector<float> scratch(AttentionScratchFloats(layout, shape, count, end, threads));
    Attention(stream, layout, 1, shape, {&sequence, 1}, {q_.data() + start * row, count, row},
              {out.data(), count, row}, scratch);
    return out;
  }

  /// attention.h, word for word: one head of one position.
  std::vector<float> Model(int position, int head) const {
    State merged;
    for (int split = 0; split <= position; split += kAttentionSplit) {
      const int begin = std::max(split, First(position));
      const int end = std::min(position + 1, split + kAttentionSplit);
      if (begin < end) Merge(SplitState(Query(position, head), begin, end), &merged);
    }
    for (float& o : merged.o) o /= merged.sum;
    return merged.o;
  }

  /// The definition in double.
  std::vector<double> Oracle(int position, int head) const {
    std::vector<double> scores;
    for (int p = First(position); p <= position; ++p) {
      double score = 0;
      for (int d = 0; d < case_.head_dim; ++d) {
        score += double{Query(position, head)[d]} * double{k_[At(p, d)]};
      }
      scores.push_back(score * double{case_.scale});
    }
    const double max = *std::max_element(scores.begin(), scores.end());
    std::vector<double> o(static_cast<size_t>(case_.head_dim));
    double sum = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      const double e = std::exp(scores[i] - max);
      sum += e;
      for (size_t d = 0; d < o.size(); ++d) {
        o[d] += e * double{v_[At(First(position) + static_cast<int>(i), static_cast<int>(d))]};
      }
    }
    for (double& value : o) value /= sum;
    return o;
  }

 private:
  struct State {
    std::vector<float> o;
    float max = 0.0f;
    float sum = 0.0f;
  };

  size_t At(int position, int d) const {
    return static_cast<size_t>(position * case_.head_dim + d);
  }
  int First(int position) const {
    return case_.window > 0 ? std::max(0, position + 1 - case_.window) : 0;
  }
  const float* Query(int position, int head) const {
    return q_.data() + (position * case_.heads + head) * case_.head_dim;
  }

  static float Exp2(float x) {
    const float n = std::floor(x);
    const float f = x - n;
    float p = kAttendExp2[3];
    for (const int i : {2, 1, 0}) p = std::fma(p, f, kAttendExp2[i]);
    return std::ldexp(p, static_cast<int>(n));
  }

  State SplitState(const float* query, int begin, int end) const {
    std::vector<float> q(query, query + case_.head_dim);
    for (float& value : q) value = RoundedToBf16(value * (case_.scale * kAttendLog2e));
    State state;
    float e[kAttentionSplit] = {};
    const int first = begin / kAttentionSplit * kAttentionSplit;
    state.max = -std::numeric_limits<float>::infinity();
    for (int p = begin; p < end; ++p) {
      float score = 0.0f;
      for (int d = 0; d < case_.head_dim; d += 2) {
        score = AddPair(score, q.data() + d, k_.data() + At(p, d));
      }
      e[p - first] = score;
      state.max = std::max(state.max, score);
    }
    float lanes[16] = {};
    state.o.assign(static_cast<size_t>(case_.head_dim), 0.0f);
    for (int p = begin; p < end; ++p) e[p - first] = RoundedToBf16(Exp2(e[p - first] - state.max));
    for (int p = begin / 2 * 2; p < end; p += 2) {
      const float ones[2] = {1.0f, 1.0f};
      float& lane = lanes[p / 2 % 16];
      lane = AddPair(lane, e + (p - first), ones);
      for (int d = 0; d < case_.head_dim; ++d) {
        const float v[2] = {p < begin ? 0.0f : v_[At(p, d)], p + 1 < end ? v_[At(p + 1, d)] : 0.0f};
        float& o = state.o[static_cast<size_t>(d)];
        o = AddPair(o, e + (p - first), v);
      }
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    state.sum = lanes[0];
    state.max *= kAttendLn2;
    return state;
  }

  static void Merge(const State& from, State* to) {
    if (to->o.empty()) {
      *to = from;
      return;
    }
    const float max = std::max(from.max, to->max);
    const float a = Exp(to->max - max);
    const float b = Exp(from.max - max);
    to->max = max;
    to->sum = to->sum * a + from.sum * b;
    for (size_t d = 0; d < to->o.size(); ++d) to->o[d] = to->o[d] * a + from.o[d] * b;
  }

  Case case_;
  int length_;
  std::vector<float> k_, v_, q_;
};

TEST(AttentionBf16, EveryHeadAndPosition_AgainstModel_SameBits) {
  for (const Case& c : kCases) {
    Fixture fixture(c, 560);
    for (const Isa isa : IsasWithBf16()) {
      const std::vector<float> out = fixture.Attend(isa, 2, 0, 560);
      const auto dim = static_cast<size_t>(c.head_dim);
      for (int position = 0; position < 560; position += position < 40 ? 1 : 13) {
        for (int head = 0; head < c.heads; ++head) {
          const auto row = static_cast<size_t>(position * c.heads + head) * dim;
          ASSERT_TRUE(SameBits(fixture.Model(position, head), std::span(out).subspan(row, dim)))
              << IsaName(isa) << " " << c << " position " << position << " head " << head;
        }
      }
    }
  }
}

TEST(AttentionBf16, ChunksAndThreads_SameBits) {
  constexpr int kLength = 700;
  for (const Case& c : kCases) {
    Fixture fixture(c, kLength);
    for (const Isa isa : IsasWithBf16()) {
      const std::vector<float> whole = fixture.Attend(isa, 1, 0, kLength);
      const auto row = static_cast<size_t>(c.heads * c.head_dim);
      for (const int threads : {1, 3}) {
        for (const int chunk : {1, 2, 7, 65}) {
          for (const int start : {0, 15, 254, 255, 256, 511, kLength - chunk}) {
            const auto first = static_cast<size_t>(start) * row;
            EXPECT_TRUE(SameBits(std::span(whole).subspan(first, static_cast<size_t>(chunk) * row),
                                 fixture.Attend(isa, threads, start, chunk)))
                << IsaName(isa) << " " << c << " threads " << threads << " chunk " << chunk;
          }
        }
      }
    }
  }
}

TEST(AttentionBf16, AgainstDoubleOracle_WithinRoundingOfBfloat16) {
  for (const Case& c : kCases) {
    if (c.scale > 1.0f) continue;  // Scores that deviate by a hundred: rounding picks another key.
    Fixture fixture(c, 560);
    for (const Isa isa : IsasWithBf16()) {
      const std::vector<float> out = fixture.Attend(isa, 1, 0, 560);
      double error = 0;
      double norm = 0;
      size_t at = 0;
      for (int position = 0; position < 560; ++position) {
        for (int head = 0; head < c.heads; ++head) {
          for (const double want : fixture.Oracle(position, head)) {
            const double difference = double{out[at++]} - want;
            error += difference * difference;
            norm += want * want;
          }
        }
      }
      EXPECT_LT(std::sqrt(error / norm), Bf16AttentionError(double{c.scale}, c.head_dim))
          << IsaName(isa) << " " << c;
    }
  }
}

}  // namespace
}  // namespace halfmoon::kernels
