// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <ostream>

#include "kernels/test_support.h"
#include "tensor/float16.h"

namespace halfmoon::kernels {
namespace {

struct Case {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int block_size = 16;
  KvType k_type = KvType::kF16;
  KvType v_type = KvType::kF16;
  int window = 0;
  int num_layers = 2;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "heads " << c.heads << "/" << c.kv_heads << " D " << c.head_dim << " block "
             << c.block_size << " types " << static_cast<int>(c.k_type) << "/"
             << static_cast<int>(c.v_type) << " window " << c.window;
}

// Sequences over one pool of pages, in shuffled order; unwritten slots hold NaN.
class Fixture {
 public:
  Fixture(const Case& c, const std::vector<int>& lengths) : case_(c), lengths_(lengths) {
    layout_ = {c.num_layers, c.kv_heads, c.head_dim, c.block_size, c.k_type, c.v_type};
    shape_ = {c.heads, c.head_dim, 0.17f, c.window};
    int pages = 0;
    for (const int length : lengths) pages += (length + c.block_size - 1) / c.block_size;
    memory_ = tensor::AlignedBuffer(static_cast<size_t>(pages) * layout_.page_bytes());
    std::fill_n(memory_.data(), memory_.size_bytes(), std::byte{0xFF});
    int next = 0;
    for (const int length : lengths) {
      tables_.emplace_back();
      for (int p = 0; p < length; p += c.block_size) tables_.back().push_back(pages - 1 - next++);
      const size_t kv_row = static_cast<size_t>(c.kv_heads * c.head_dim);
      const auto seed = static_cast<uint32_t>(tables_.size());
      k_.push_back(RandomFloats(static_cast<size_t>(length) * kv_row, seed));
      v_.push_back(RandomFloats(static_cast<size_t>(length) * kv_row, 100 + seed));
      q_.push_back(RandomFloats(static_cast<size_t>(length * c.heads * c.head_dim), 200 + seed));
    }
  }

  AttentionSequence Sequence(size_t i, int start, int count, int64_t row) {
    return {row, count, start, {memory_.data(), tables_[i]}};
  }

  void Write(const Stream& stream, size_t i, int start, int count) {
    const AttentionSequence sequence = Sequence(i, start, count, 0);
    const int64_t stride = case_.kv_heads * case_.head_dim;
    WriteKv(stream, layout_, 1, {&sequence, 1}, {k_[i].data() + start * stride, count, stride},
            {v_[i].data() + start * stride, count, stride});
  }

  // Attention of positions [start, start + count) of each sequence in one call; what lies after
  // them stays unwritten.
  std::vector<std::vector<float>> Attend(Isa isa, int threads, const std::vector<int>& starts,
                                         const std::vector<int>& counts, bool whole_items = false) {
    ThreadPool pool(threads);
    const Stream stream(pool, isa);
    const int64_t row_floats = case_.heads * case_.head_dim;
    std::vector<AttentionSequence> sequences;
    std::vector<float> q;
    int64_t rows = 0;
    for (size_t i = 0; i < lengths_.size(); ++i) {
      if (counts[i] == 0) continue;
      Write(stream, i, 0, starts[i] + counts[i]);
      sequences.push_back(Sequence(i, starts[i], counts[i], rows));
      rows += counts[i];
      q.insert(q.end(), q_[i].begin() + starts[i] * row_floats,
               q_[i].begin() + (starts[i] + counts[i]) * row_floats);
    }
    std::vector<float> out(q.size(), -5.0f);
    const int max_length = *std::max_element(lengths_.begin(), lengths_.end());
    std::vector<float> scratch(
        AttentionScratchFloats(layout_, shape_, rows, whole_items ? 1 : max_length, threads));
    Attention(stream, layout_, 1, shape_, sequences, {q.data(), rows, row_floats},
              {out.data(), rows, row_floats}, scratch);
    std::vector<std::vector<float>> results;
    const float* next = out.data();
    for (size_t i = 0; i < lengths_.size(); ++i) {
      results.emplace_back(next, next + counts[i] * row_floats);
      next += counts[i] * row_floats;
    }
    return results;
  }

  // Attention of one position by the definition, in double over the stored (rounded) keys and
  // values.
  std::vector<double> Oracle(size_t i, int position) const {
    const int d_count = case_.head_dim;
    const std::vector<float> k = StoredKv(case_.k_type, k_[i], d_count);
    const std::vector<float> v = StoredKv(case_.v_type, v_[i], d_count);
    std::vector<double> out;
    for (int head = 0; head < case_.heads; ++head) {
      const int kv_head = head / (case_.heads / case_.kv_heads);
      const int begin = case_.window > 0 ? std::max(0, position + 1 - case_.window) : 0;
      std::vector<double> scores;
      for (int p = begin; p <= position; ++p) {
        double score = 0;
        for (int d = 0; d < d_count; ++d) {
          score += double{q_[i][Index(position, head, case_.heads, d)]} *
                   double{k[Index(p, kv_head, case_.kv_heads, d)]};
        }
        scores.push_back(score * double{shape_.scale});
      }
      const double max = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      std::vector<double> o(static_cast<size_t>(d_count));
      for (int p = begin; p <= position; ++p) {
        const double e = std::exp(scores[static_cast<size_t>(p - begin)] - max);
        sum += e;
        for (int d = 0; d < d_count; ++d) {
          o[static_cast<size_t>(d)] += e * double{v[Index(p, kv_head, case_.kv_heads, d)]};
        }
      }
      for (const double value : o) out.push_back(value / sum);
    }
    return out;
  }

  const KvLayout& layout() const { return layout_; }
  std::vector<std::vector<float>>& k() { return k_; }
  std::vector<std::vector<float>>& v() { return v_; }

 private:
  size_t Index(int row, int head, int heads, int d) const {
    return static_cast<size_t>((row * heads + head) * case_.head_dim + d);
  }

  Case case_;
  std::vector<int> lengths_;
  KvLayout layout_;
  AttentionShape shape_;
  tensor::AlignedBuffer memory_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<std::vector<float>> k_, v_, q_;
};

const std::vector<Case>& Cases() {
  constexpr KvType f32 = KvType::kF32;
  constexpr KvType f16 = KvType::kF16;
  constexpr KvType q8 = KvType::kQ8_0;
  constexpr KvType b16 = KvType::kBF16;
  static const std::vector<Case> cases = {
      {4, 2, 32, 16, f16, f16, 0},   {4, 2, 32, 16, f32, f32, 0},   {9, 3, 64, 32, f16, f16, 0},
      {8, 1, 128, 64, f16, f16, 0},  {2, 2, 16, 16, f32, f32, 0},   {5, 1, 80, 32, f16, f16, 0},
      {16, 1, 16, 16, f16, f16, 0},  {3, 3, 24, 16, f16, f16, 0},   {3, 1, 7, 16, f32, f32, 0},
      {4, 2, 32, 16, f16, f16, 20},  {4, 1, 64, 64, f32, f32, 100}, {6, 2, 32, 32, f16, f16, 1},
      {4, 2, 32, 16, f16, f16, 300}, {4, 2, 32, 16, q8, q8, 0},     {8, 1, 128, 64, q8, q8, 0},
      {5, 1, 80, 32, q8, q8, 0},     {3, 1, 40, 16, q8, q8, 0},     {16, 1, 16, 16, q8, f16, 0},
      {8, 2, 64, 32, f16, q8, 100},  {3, 1, 7, 16, q8, f32, 0},     {2, 2, 96, 16, f32, q8, 0},
      {4, 2, 32, 16, b16, b16, 0},   {8, 1, 128, 64, b16, b16, 0},  {5, 1, 80, 32, b16, b16, 0},
      {3, 3, 24, 16, b16, b16, 0},   {3, 1, 7, 16, b16, b16, 0},    {4, 4, 16, 16, b16, b16, 20},
      {6, 2, 32, 32, b16, b16, 1},   {4, 1, 64, 64, b16, b16, 101}, {4, 2, 32, 16, b16, b16, 300},
      {2, 2, 96, 16, b16, q8, 0},    {8, 2, 64, 32, f16, b16, 100}, {4, 4, 48, 16, b16, f32, 7},
  };
  return cases;
}

TEST(Attention, Prefill_AgainstDoubleOracle) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, {300});
    const auto result = fixture.Attend(Isa::kGeneric, 1, {0}, {300});
    for (const int position : {0, 1, 15, 16, 17, 31, 100, 255, 256, 257, 299}) {
      const std::vector<double> expected = fixture.Oracle(0, position);
      for (size_t j = 0; j < expected.size(); ++j) {
        const float actual = result[0][static_cast<size_t>(position) * expected.size() + j];
        // Values are about 1; 300 roundings each of 2^-24, and those of the scores in the exponent.
        EXPECT_NEAR(actual, expected[j], 1e-4) << c << " position " << position;
      }
    }
  }
}

TEST(Attention, EveryIsa_AgainstGeneric_SameBits) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, {300, 1, 70});
    const std::vector<int> starts = {261, 0, 33};
    const std::vector<int> counts = {39, 1, 37};
    const auto expected = fixture.Attend(Isa::kGeneric, 1, starts, counts);
    for (const Isa isa : AvailableIsas()) {
      // Pairs of bfloat16 have sums of their own (attention_bf16_test.cc).
      if (AttendsBf16(isa, fixture.layout())) continue;
      const auto actual = fixture.Attend(isa, 1, starts, counts);
      for (size_t i = 0; i < 3; ++i)
        EXPECT_TRUE(SameBits(expected[i], actual[i])) << IsaName(isa) << " " << c;
    }
  }
}

TEST(Attention, ChunksBatchesAndThreads_SameBits) {
  for (const Case& c : Cases()) {
    for (const Isa isa : AvailableIsas()) {
      if (isa == Isa::kGeneric && AvailableIsas().size() > 1)
        continue;  // Slow, and equal by the test above.
      const int length = 800;
      Fixture fixture(c, {length, 40});
      const size_t row = static_cast<size_t>(c.heads * c.head_dim);
      const auto whole = fixture.Attend(isa, 1, {0, 0}, {length, 40});
      for (const int threads : {1, 2, 3}) {
        for (const int chunk : {1, 7, 64}) {
          for (int start = length - 3 * chunk; start < length; start += chunk) {
            const auto part = fixture.Attend(isa, threads, {start, 39}, {chunk, 1});
            EXPECT_TRUE(SameBits(std::span(whole[0]).subspan(static_cast<size_t>(start) * row,
                                                             static_cast<size_t>(chunk) * row),
                                 part[0]))
                << IsaName(isa) << " " << c << " threads " << threads << " chunk " << chunk;
            EXPECT_TRUE(SameBits(std::span(whole[1]).subspan(39 * row, row), part[1]));
          }
        }
        // With the least scratch, items run whole instead of split by split.
        const auto least = fixture.Attend(isa, threads, {length - 1, 0}, {1, 0}, true);
        EXPECT_TRUE(
            SameBits(std::span(whole[0]).subspan(static_cast<size_t>(length - 1) * row), least[0]));
      }
    }
  }
}

/// Rows of four heads of 32 before and after keys and values of position `at` became infinite.
struct Faulty {
  static constexpr size_t kRow = 4 * 32;
  std::vector<float> before, after;

  Faulty(const Case& c, Isa isa, size_t at) {
    Fixture fixture(c, {40});
    before = fixture.Attend(isa, 1, {0}, {40})[0];
    const size_t kv_row = static_cast<size_t>(c.kv_heads * c.head_dim);
    std::fill_n(fixture.k()[0].data() + at * kv_row, kv_row, kInfinity);
    std::fill_n(fixture.v()[0].data() + at * kv_row, kv_row, kInfinity);
    after = fixture.Attend(isa, 1, {0}, {40})[0];
  }

  ::testing::AssertionResult SameRows(size_t first, size_t end) const {
    return SameBits(std::span(before).subspan(first * kRow, (end - first) * kRow),
                    std::span(after).subspan(first * kRow, (end - first) * kRow));
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
};

TEST(Attention, LaterTokens_NeverReachEarlierOnes) {
  for (const Isa isa : AvailableIsas()) {
    for (const KvType type : {KvType::kF16, KvType::kBF16}) {
      for (const int kv_heads : {1, 2, 4}) {
        for (const size_t at : {20, 21}) {
          const Faulty rows({4, kv_heads, 32, 16, type, type}, isa, at);
          EXPECT_TRUE(rows.SameRows(0, at)) << IsaName(isa) << " " << KvTypeName(type);
          for (size_t i = at * Faulty::kRow; i < rows.after.size(); ++i) {
            EXPECT_FALSE(std::isfinite(rows.after[i])) << i;
          }
        }
      }
    }
  }
}

TEST(Attention, TokensBeforeTheWindow_NeverReachLaterOnes) {
  constexpr size_t kWindow = 5;
  for (const Isa isa : AvailableIsas()) {
    for (const KvType type : {KvType::kF16, KvType::kBF16}) {
      for (const int kv_heads : {1, 2, 4}) {
        for (const size_t at : {14, 15, 16, 17}) {
          const Faulty rows({4, kv_heads, 32, 16, type, type, kWindow}, isa, at);
          EXPECT_TRUE(rows.SameRows(0, at)) << IsaName(isa) << " " << KvTypeName(type);
          EXPECT_TRUE(rows.SameRows(at + kWindow, 40)) << IsaName(isa) << " " << KvTypeName(type);
          EXPECT_FALSE(std::isfinite(rows.after[(at + kWindow - 1) * Faulty::kRow]));
        }
      }
    }
  }
}

TEST(WriteKv, EveryIsa_SameBytes) {
  for (const Case& c : Cases()) {
    const KvLayout layout{c.num_layers, c.kv_heads, c.head_dim, c.block_size, c.k_type, c.v_type};
    const std::vector<int32_t> table = {1, 0, 2, 3};
    const int64_t stride = c.kv_heads * c.head_dim + 5;
    std::vector<float> k = RandomFloats(static_cast<size_t>(40 * stride), 1);
    std::vector<float> v = RandomFloats(static_cast<size_t>(40 * stride), 2, 1e-6f);
    k[3] = 70000.0f;  // beyond float16
    k[4] = 65519.0f;
    k[5] = -1e-8f;
    // Faults and sizes at the ends of what a group of int8 can hold.
    k[41] = std::numeric_limits<float>::quiet_NaN();
    v[0] = 1e7f;
    v[static_cast<size_t>(stride)] = -std::numeric_limits<float>::infinity();
    std::fill_n(v.begin() + 2 * stride, stride, 0.0f);
    std::fill_n(k.begin() + 3 * stride, stride, 6e-6f);  // The scale is float16's smallest.
    std::vector<std::byte> expected;
    for (const Isa isa : AvailableIsas()) {
      ThreadPool pool(2);
      tensor::AlignedBuffer pages(4 * layout.page_bytes());
      const AttentionSequence sequence{0, 40, 9, {pages.data(), table}};
      WriteKv(Stream(pool, isa), layout, 1, {&sequence, 1}, {k.data(), 40, stride},
              {v.data(), 40, stride});
      std::vector<std::byte> bytes(pages.data(), pages.data() + pages.size_bytes());
      if (expected.empty()) expected = bytes;
      EXPECT_TRUE(expected == bytes) << IsaName(isa) << " " << c;
    }
  }
}

}  // namespace
}  // namespace halfmoon::kernels
