// SPDX-License-Identifier: Apache-2.0
#include "kernels/indexer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/test_support.h"
#include "tensor/float16.h"

namespace halfmoon::kernels {
namespace {

constexpr int kLatent = 16;  // width of the latent rows beside the keys

/// One sequence with index keys in pages of shuffled order.
class Fixture {
 public:
  Fixture(int heads, int dim, int top_k, KvType type, int length) : length_(length) {
    layout_ = {.num_layers = 2,
               .num_kv_heads = 1,
               .head_dim = kLatent,
               .block_size = 32,
               .k_type = type,
               .v_type = type,
               .kind = KvKind::kLatent,
               .value_dim = kLatent,
               .index_dim = dim};
    shape_ = {.num_heads = heads, .head_dim = dim, .scale = 0.09f, .top_k = top_k};
    table_.resize(static_cast<size_t>((length + 31) / 32));
    std::iota(table_.rbegin(), table_.rend(), 0);
    memory_ = tensor::AlignedBuffer(table_.size() * layout_.page_bytes());
    std::fill_n(memory_.data(), memory_.size_bytes(), std::byte{0xFF});
    const auto n = static_cast<size_t>(length);
    keys = RandomFloats(n * static_cast<size_t>(dim), 1);
    queries = RandomFloats(n * static_cast<size_t>(heads * dim), 2);
    weights = RandomFloats(n * static_cast<size_t>(heads), 3);
  }

  struct Choice {
    std::vector<std::vector<int32_t>> positions;
    std::vector<std::vector<float>> scores;
  };

  /// For rows [start, start + count).
  Choice Choose(Isa isa, int threads, int start, int count, bool scores, int scratch_rows = 4096) {
    ThreadPool pool(threads);
    const Stream stream(pool, isa);
    std::vector<float> latent(static_cast<size_t>(length_) * kLatent);
    const AttentionSequence whole{0, start + count, 0, {memory_.data(), table_}};
    WriteLatentKv(stream, layout_, 1, {&whole, 1}, {latent.data(), start + count, kLatent},
                  {keys.data(), start + count, shape_.head_dim});
    const AttentionSequence sequence{0, count, start, {memory_.data(), table_}};
    const int64_t q_row = int64_t{shape_.num_heads} * shape_.head_dim;
    const auto rows = static_cast<size_t>(count);
    std::vector<int32_t> positions(rows * static_cast<size_t>(shape_.top_k), -7);
    std::vector<int32_t> counts(rows);
    std::vector<float> all(rows * static_cast<size_t>(length_), -7.0f);
    std::vector<float> scratch(IndexerScratchFloats(scratch_rows, length_));
    ChooseKeys(stream, layout_, 1, shape_, {&sequence, 1},
               {queries.data() + start * q_row, count, q_row},
               {weights.data() + start * shape_.num_heads, count, shape_.num_heads},
               {.positions = positions.data(),
                .counts = counts.data(),
                .stride = shape_.top_k,
                .scores = scores ? all.data() : nullptr,
                .scores_stride = length_},
               scratch);
    Choice choice;
    for (size_t i = 0; i < rows; ++i) {
      const auto* first = positions.data() + i * static_cast<size_t>(shape_.top_k);
      choice.positions.emplace_back(first, first + counts[i]);
      const float* row = all.data() + i * static_cast<size_t>(length_);
      choice.scores.emplace_back(row, row + start + static_cast<int>(i) + 1);
    }
    return choice;
  }

  double Oracle(int t, int s) const {
    const auto first = keys.begin() + s * shape_.head_dim;
    const std::vector<float> key = StoredKv(
        layout_.k_type, std::vector<float>(first, first + shape_.head_dim), shape_.head_dim);
    double total = 0;
    for (int h = 0; h < shape_.num_heads; ++h) {
      double dot = 0;
      for (int d = 0; d < shape_.head_dim; ++d) {
        dot +=
            double{queries[static_cast<size_t>((t * shape_.num_heads + h) * shape_.head_dim + d)]} *
            double{key[static_cast<size_t>(d)]};
      }
      total += double{weights[static_cast<size_t>(t * shape_.num_heads + h)]} *
               std::max(0.0, dot * double{shape_.scale});
    }
    return total;
  }

  std::vector<float> keys, queries, weights;

 private:
  int length_;
  KvLayout layout_;
  IndexerShape shape_;
  std::vector<int32_t> table_;
  tensor::AlignedBuffer memory_;
};

TEST(ChooseKeys, Scores_AgainstDoubleOracle_AndEveryIsaSameBits) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8_0, KvType::kBF16}) {
    for (const int heads : {12, 3, 8}) {
      Fixture fixture(heads, heads == 8 ? 48 : 24, 10, type, 90);
      const Fixture::Choice expected = fixture.Choose(Isa::kGeneric, 1, 0, 90, true);
      for (int t = 0; t < 90; ++t) {
        for (int s = 0; s <= t; ++s) {
          ASSERT_NEAR(expected.scores[static_cast<size_t>(t)][static_cast<size_t>(s)],
                      fixture.Oracle(t, s), 1e-4);
        }
      }
      for (const Isa isa : AvailableIsas()) {
        const Fixture::Choice got = fixture.Choose(isa, 2, 0, 90, true);
        EXPECT_EQ(got.positions, expected.positions) << IsaName(isa);
        for (size_t t = 0; t < 90; ++t) {
          EXPECT_TRUE(SameBits(expected.scores[t], got.scores[t])) << IsaName(isa);
        }
      }
    }
  }
}

TEST(ChooseKeys, Choice_IsTheBestOfTheScores_Ascending) {
  Fixture fixture(8, 16, 20, KvType::kF32, 1500);
  const Fixture::Choice choice = fixture.Choose(BestIsa(), 2, 1400, 100, true);
  for (size_t i = 0; i < 100; ++i) {
    const std::vector<float>& scores = choice.scores[i];
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    // Of equal scores the older position.
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const float score_a = scores[static_cast<size_t>(a)];
      const float score_b = scores[static_cast<size_t>(b)];
      return score_a != score_b ? score_a > score_b : a < b;
    });
    order.resize(20);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(choice.positions[i], order) << i;
  }
}

TEST(ChooseKeys, ChunksThreadsAndLittleScratch_SameChoice) {
  Fixture fixture(4, 16, 30, KvType::kF16, 400);
  const Fixture::Choice whole = fixture.Choose(BestIsa(), 1, 0, 400, false);
  for (const int threads : {1, 3}) {
    for (const int chunk : {1, 50}) {
      for (int start = 0; start < 400; start += chunk == 1 ? 37 : chunk) {
        const Fixture::Choice part = fixture.Choose(BestIsa(), threads, start, chunk, false, 1);
        for (size_t i = 0; i < part.positions.size(); ++i) {
          EXPECT_EQ(part.positions[i], whole.positions[static_cast<size_t>(start) + i]);
        }
      }
    }
  }
}

TEST(ChooseKeys, NoMoreThanTopK_ChoosesAll) {
  Fixture fixture(4, 16, 50, KvType::kF16, 60);
  const Fixture::Choice choice = fixture.Choose(BestIsa(), 1, 0, 60, false);
  for (size_t t = 0; t < 60; ++t) {
    EXPECT_EQ(choice.positions[t].size(), std::min<size_t>(t + 1, 50));
  }
  std::vector<int32_t> first(50);
  std::iota(first.begin(), first.end(), 0);
  EXPECT_EQ(choice.positions[49], first);
}

TEST(ChooseKeys, EqualScores_EarlierPositionWins_NaNLast) {
  Fixture fixture(2, 16, 4, KvType::kF32, 40);
  // Keys opposite to the queries: relu makes every score zero, but two.
  std::fill(fixture.queries.begin(), fixture.queries.end(), 1.0f);
  std::fill(fixture.weights.begin(), fixture.weights.end(), 1.0f);
  std::fill(fixture.keys.begin(), fixture.keys.end(), -1.0f);
  std::fill_n(fixture.keys.begin() + 16 * 20, 16, 1.0f);
  fixture.weights[2 * 39] = std::numeric_limits<float>::quiet_NaN();
  const Fixture::Choice choice = fixture.Choose(BestIsa(), 1, 30, 10, false);
  EXPECT_EQ(choice.positions[0], (std::vector<int32_t>{0, 1, 2, 20}));
  EXPECT_EQ(choice.positions[9], (std::vector<int32_t>{0, 1, 2, 3}));
}

}  // namespace
}  // namespace halfmoon::kernels
