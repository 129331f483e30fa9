// SPDX-License-Identifier: Apache-2.0
#include "kernels/expanded_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>

#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

struct Case {
  ExpandedShape shape;
  KvType type = KvType::kF16;
  tensor::DType weights = tensor::DType::kBF16;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "heads " << c.shape.num_heads << " c " << c.shape.latent_dim << " dn "
             << c.shape.nope_dim << " dr " << c.shape.rope_dim << " dv " << c.shape.value_dim
             << " type " << static_cast<int>(c.type);
}

ExpandedShape Shape(int heads, int c, int dn, int dr, int dv) {
  return {.num_heads = heads,
          .latent_dim = c,
          .nope_dim = dn,
          .rope_dim = dr,
          .value_dim = dv,
          .scale = 0.05f};
}

std::vector<Case> Cases() {
  return {{Shape(4, 48, 24, 16, 24), KvType::kF16, tensor::DType::kBF16},
          {Shape(3, 136, 32, 16, 20), KvType::kF32, tensor::DType::kF32},
          {Shape(1, 20, 5, 4, 7), KvType::kF16, tensor::DType::kF16},
          {Shape(2, 512, 128, 64, 128), KvType::kF16, tensor::DType::kQ8_0},
          {Shape(4, 48, 24, 16, 24), KvType::kQ8_0, tensor::DType::kF32},
          {Shape(2, 64, 32, 16, 32), KvType::kBF16, tensor::DType::kBF16},
          {Shape(1, 20, 5, 4, 7), KvType::kBF16, tensor::DType::kF32}};
}

constexpr int kBlock = 16;

/// One sequence in pages of shuffled order; unwritten slots hold NaN.
class Fixture {
 public:
  Fixture(const Case& c, int length) : shape_(c.shape), row_(shape_.latent_dim + shape_.rope_dim) {
    layout_ = {.num_layers = 2,
               .num_kv_heads = 1,
               .head_dim = row_,
               .block_size = kBlock,
               .k_type = c.type,
               .v_type = c.type,
               .kind = KvKind::kLatent,
               .value_dim = shape_.latent_dim};
    table_.resize(static_cast<size_t>((length + kBlock - 1) / kBlock));
    std::iota(table_.rbegin(), table_.rend(), 0);
    memory_ = tensor::AlignedBuffer(table_.size() * layout_.page_bytes());
    std::fill_n(memory_.data(), memory_.size_bytes(), std::byte{0xFF});
    const auto n = static_cast<size_t>(length);
    kv_ = RandomFloats(n * static_cast<size_t>(row_), 1,
                       1.0f / std::sqrt(static_cast<float>(shape_.latent_dim)));
    stored_ = StoredKv(c.type, kv_, row_);
    q_ = RandomFloats(n * static_cast<size_t>(q_row()), 2);
    for (uint32_t head = 0; head < static_cast<uint32_t>(shape_.num_heads); ++head) {
      key_source_.emplace_back(c.weights, shape_.nope_dim, shape_.latent_dim, 10 + head);
      value_source_.emplace_back(c.weights, shape_.value_dim, shape_.latent_dim, 50 + head);
      key_.push_back(std::move(key_source_.back().packed));
      value_.push_back(std::move(value_source_.back().packed));
    }
  }

  /// Attention of `count` positions from each start, as sequences of one call that share pages.
  std::vector<float> Attend(Isa isa, int threads, const std::vector<int>& starts, int count) {
    ThreadPool pool(threads);
    const Stream stream(pool, isa);
    const int end = *std::max_element(starts.begin(), starts.end()) + count;
    const AttentionSequence whole{0, end, 0, {memory_.data(), table_}};
    WriteLatentKv(stream, layout_, 1, {&whole, 1}, {kv_.data(), end, row_}, {});
    std::vector<AttentionSequence> sequences;
    std::vector<float> q;
    for (const int start : starts) {
      const auto row = static_cast<int64_t>(sequences.size()) * count;
      sequences.push_back({row, count, start, {memory_.data(), table_}});
      q.insert(q.end(), q_.begin() + start * q_row(), q_.begin() + (start + count) * q_row());
    }
    const auto rows = static_cast<int64_t>(starts.size()) * count;
    std::vector<float> out(static_cast<size_t>(rows * out_row()), -5.0f);
    std::vector<float> scratch(ExpandedScratchFloats(shape_, rows, threads), std::nanf(""));
    ExpandedAttention(stream, layout_, 1, shape_, {key_, value_}, sequences,
                      {q.data(), rows, q_row()}, {out.data(), rows, out_row()}, scratch);
    return out;
  }

  /// By the definition, in double over the stored (rounded) rows.
  std::vector<double> Oracle(int position) const {
    std::vector<double> out;
    for (int head = 0; head < shape_.num_heads; ++head) {
      const float* q = q_.data() + position * q_row() + head * (shape_.nope_dim + shape_.rope_dim);
      const auto at = static_cast<size_t>(head);
      std::vector<double> e;
      for (int p = 0; p <= position; ++p) {
        double score = 0;
        for (int d = 0; d < shape_.nope_dim; ++d) {
          score += double{q[d]} * Product(key_source_[at], d, p);
        }
        for (int d = 0; d < shape_.rope_dim; ++d) {
          score += double{q[shape_.nope_dim + d]} * Stored(p, shape_.latent_dim + d);
        }
        e.push_back(score * double{shape_.scale});
      }
      const double max = *std::max_element(e.begin(), e.end());
      double sum = 0;
      for (double& x : e) sum += x = std::exp(x - max);
      for (int d = 0; d < shape_.value_dim; ++d) {
        double o = 0;
        for (int p = 0; p <= position; ++p) {
          o += e[static_cast<size_t>(p)] * Product(value_source_[at], d, p);
        }
        out.push_back(o / sum);
      }
    }
    return out;
  }

  size_t width() const { return static_cast<size_t>(out_row()); }

 private:
  int64_t q_row() const { return int64_t{shape_.num_heads} * (shape_.nope_dim + shape_.rope_dim); }
  int64_t out_row() const { return int64_t{shape_.num_heads} * shape_.value_dim; }
  double Stored(int position, int column) const {
    return double{stored_[static_cast<size_t>(position * row_ + column)]};
  }
  double Product(const TestMatrix& matrix, int out, int position) const {
    double sum = 0;
    for (int i = 0; i < shape_.latent_dim; ++i) {
      sum +=
          double{matrix.decoded[static_cast<size_t>(out * matrix.cols + i)]} * Stored(position, i);
    }
    return sum;
  }

  ExpandedShape shape_;
  int row_;
  KvLayout layout_;
  std::vector<int32_t> table_;
  tensor::AlignedBuffer memory_;
  std::vector<float> kv_, stored_, q_;
  std::vector<TestMatrix> key_source_, value_source_;
  std::vector<PackedMatrix> key_, value_;
};

TEST(ExpandedAttention, AgainstDoubleOracle) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, 300);
    const std::vector<float> out = fixture.Attend(BestIsa(), 2, {0}, 300);
    for (const int position : {0, 1, 15, 16, 100, 255, 256, 299}) {
      const std::vector<double> want = fixture.Oracle(position);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(out[static_cast<size_t>(position) * fixture.width() + i], want[i],
                    2e-4 * (1.0 + std::abs(want[i])))
            << c << " position " << position << " value " << i;
      }
    }
  }
}

TEST(ExpandedAttention, EveryIsa_AgainstGeneric_SameBits) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, 290);
    const auto expected = fixture.Attend(Isa::kGeneric, 1, {250}, 40);
    for (const Isa isa : AvailableIsas()) {
      EXPECT_TRUE(SameBits(expected, fixture.Attend(isa, 1, {250}, 40)))
          << IsaName(isa) << " " << c;
    }
  }
}

TEST(ExpandedAttention, ChunksThreadsAndBatch_SameBits) {
  for (const Case& c : Cases()) {
    // 1100 queries of a few heads are cut into blocks where there are threads to feed.
    const int length = 1100;
    Fixture fixture(c, length);
    const size_t width = fixture.width();
    const auto whole = fixture.Attend(BestIsa(), 1, {0}, length);
    EXPECT_TRUE(SameBits(whole, fixture.Attend(BestIsa(), 3, {0}, length))) << c;
    for (const int threads : {1, 3}) {
      for (const int chunk : {1, 7, 64, 300}) {
        // Three sequences of one call, the last first.
        const std::vector<int> starts = {length - chunk, 0, 250};
        const auto parts = fixture.Attend(BestIsa(), threads, starts, chunk);
        const size_t floats = static_cast<size_t>(chunk) * width;
        for (size_t i = 0; i < starts.size(); ++i) {
          EXPECT_TRUE(
              SameBits(std::span(whole).subspan(static_cast<size_t>(starts[i]) * width, floats),
                       std::span(parts).subspan(i * floats, floats)))
              << c << " threads " << threads << " chunk " << chunk << " at " << starts[i];
        }
      }
    }
  }
}

TEST(ExpandedAttention, Scratch_IsEnoughForBatchesAndDoesNotGrowWithContext) {
  const ExpandedShape shape = Shape(2, 48, 24, 16, 24);
  EXPECT_EQ(ExpandedScratchFloats(shape, 512, 2), 2 * ExpandedScratchFloats(shape, 512, 1));
  EXPECT_EQ(ExpandedScratchFloats(shape, 1 << 20, 1), ExpandedScratchFloats(shape, 1 << 16, 1));
}

TEST(ExpansionPays, DeepseekHeads_BySizeOfChunk) {
  const ExpandedShape shape = Shape(128, 512, 128, 64, 128);
  EXPECT_FALSE(ExpansionPays(shape, 1, 0));
  EXPECT_FALSE(ExpansionPays(shape, 15, 0));
  EXPECT_TRUE(ExpansionPays(shape, 16, 0));
  EXPECT_FALSE(ExpansionPays(shape, 170, 1 << 20));
  EXPECT_TRUE(ExpansionPays(shape, 171, 1 << 20));
  EXPECT_FALSE(ExpansionPays(shape, 0, 0));
}

TEST(ExpansionPays, LatentsNoWiderThanHeads_Never) {
  EXPECT_FALSE(ExpansionPays(Shape(2, 16, 16, 8, 16), 512, 0));
}

}  // namespace
}  // namespace halfmoon::kernels
