// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <ostream>

#include "kernels/attention.h"
#include "kernels/test_support.h"
#include "tensor/float16.h"

namespace halfmoon::kernels {
namespace {

struct Case {
  int heads = 4;
  int latent_dim = 48;
  int rope_dim = 16;
  int index_dim = 0;
  KvType type = KvType::kF16;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "heads " << c.heads << " c " << c.latent_dim << " dr " << c.rope_dim << " type "
             << static_cast<int>(c.type);
}

std::vector<Case> Cases() {
  return {{4, 48, 16, 0, KvType::kF16},      {4, 48, 16, 32, KvType::kF32},
          {6, 136, 16, 8, KvType::kF16},     {128, 64, 32, 0, KvType::kF16},
          {3, 20, 4, 0, KvType::kF32},       {16, 512, 64, 128, KvType::kF16},
          {4, 48, 16, 32, KvType::kQ8_0},    {3, 20, 4, 8, KvType::kQ8_0},
          {16, 512, 64, 128, KvType::kQ8_0}, {4, 48, 16, 32, KvType::kBF16},
          {3, 20, 4, 8, KvType::kBF16},      {128, 64, 32, 0, KvType::kBF16},
          {5, 32, 16, 0, KvType::kBF16},     {16, 512, 64, 128, KvType::kBF16}};
}

constexpr int kBlock = 16;

/// One sequence in pages of shuffled order; unwritten slots hold NaN.
class Fixture {
 public:
  Fixture(const Case& c, int length) : case_(c), length_(length), row_(c.latent_dim + c.rope_dim) {
    layout_ = {.num_layers = 2,
               .num_kv_heads = 1,
               .head_dim = row_,
               .block_size = kBlock,
               .k_type = c.type,
               .v_type = c.type,
               .kind = KvKind::kLatent,
               .value_dim = c.latent_dim,
               .index_dim = c.index_dim};
    shape_ = {.num_heads = c.heads, .head_dim = row_, .scale = 0.11f};
    table_.resize(static_cast<size_t>((length + kBlock - 1) / kBlock));
    std::iota(table_.rbegin(), table_.rend(), 0);
    memory_ = tensor::AlignedBuffer(table_.size() * layout_.page_bytes());
    std::fill_n(memory_.data(), memory_.size_bytes(), std::byte{0xFF});
    const auto n = static_cast<size_t>(length);
    kv_ = RandomFloats(n * static_cast<size_t>(row_), 1);
    index_ = RandomFloats(n * static_cast<size_t>(std::max(1, c.index_dim)), 2);
    q_ = RandomFloats(n * static_cast<size_t>(c.heads * row_), 3);
  }

  /// Attention of positions [start, start + count); what lies after them stays unwritten.
  std::vector<float> Attend(Isa isa, int threads, int start, int count,
                            const std::vector<std::vector<int32_t>>* chosen = nullptr) {
    ThreadPool pool(threads);
    const Stream stream(pool, isa);
    const AttentionSequence whole{0, start + count, 0, {memory_.data(), table_}};
    WriteLatentKv(stream, layout_, 1, {&whole, 1}, {kv_.data(), start + count, row_},
                  {index_.data(), start + count, case_.index_dim});
    const AttentionSequence sequence{0, count, start, {memory_.data(), table_}};
    const int64_t q_row = int64_t{case_.heads} * row_;
    const int64_t out_row = int64_t{case_.heads} * case_.latent_dim;
    std::vector<float> out(static_cast<size_t>(count * out_row), -5.0f);
    std::vector<float> scratch(AttentionScratchFloats(layout_, shape_, count, length_, threads));
    std::vector<int32_t> positions(static_cast<size_t>(count) * static_cast<size_t>(length_));
    std::vector<int32_t> counts(static_cast<size_t>(count));
    for (size_t i = 0; chosen != nullptr && i < counts.size(); ++i) {
      const std::vector<int32_t>& own = (*chosen)[i];
      counts[i] = static_cast<int32_t>(own.size());
      std::copy(own.begin(), own.end(),
                positions.begin() + static_cast<std::ptrdiff_t>(i) * length_);
    }
    const KeySelection selection{positions.data(), counts.data(), length_};
    Attention(stream, layout_, 1, shape_, {&sequence, 1}, {q_.data() + start * q_row, count, q_row},
              {out.data(), count, out_row}, scratch, chosen == nullptr ? nullptr : &selection);
    return out;
  }

  /// By the definition, in double over the stored (rounded) rows.
  std::vector<double> Oracle(int position, const std::vector<int32_t>& chosen) const {
    std::vector<double> out;
    const std::vector<float> kv = StoredKv(case_.type, kv_, row_);
    for (int head = 0; head < case_.heads; ++head) {
      std::vector<double> e;
      for (const int32_t p : chosen) {
        double score = 0;
        for (int d = 0; d < row_; ++d) {
          score += double{q_[At(position, head, case_.heads, d)]} * double{kv[At(p, 0, 1, d)]};
        }
        e.push_back(score * double{shape_.scale});
      }
      const double max = *std::max_element(e.begin(), e.end());
      double sum = 0;
      for (double& x : e) sum += x = std::exp(x - max);
      for (int d = 0; d < case_.latent_dim; ++d) {
        double o = 0;
        for (size_t i = 0; i < e.size(); ++i) o += e[i] * double{kv[At(chosen[i], 0, 1, d)]};
        out.push_back(o / sum);
      }
    }
    return out;
  }

  /// The same of all heads, latents and rotated parts as keys and values of one KV head.
  std::vector<float> AttendAsHeads(Isa isa, int count) {
    const KvLayout heads{1, 1, row_, kBlock, case_.type, case_.type};
    ThreadPool pool(2);
    const Stream stream(pool, isa);
    tensor::AlignedBuffer memory(table_.size() * heads.page_bytes());
    const AttentionSequence sequence{0, count, 0, {memory.data(), table_}};
    const Rows rows{kv_.data(), count, row_};
    WriteKv(stream, heads, 0, {&sequence, 1}, rows, rows);
    const int64_t q_row = int64_t{case_.heads} * row_;
    std::vector<float> out(static_cast<size_t>(count * q_row));
    std::vector<float> scratch(AttentionScratchFloats(heads, shape_, count, count, 2));
    Attention(stream, heads, 0, shape_, {&sequence, 1}, {q_.data(), count, q_row},
              {out.data(), count, q_row}, scratch);
    std::vector<float> values;
    for (auto head = out.begin(); head < out.end(); head += row_) {
      values.insert(values.end(), head, head + case_.latent_dim);
    }
    return values;
  }

  const KvLayout& layout() const { return layout_; }
  /// Bound of the error norm by norm, where the kernel rounds to bfloat16.
  double bf16_error() const { return Bf16AttentionError(double{shape_.scale}, row_); }

 private:
  size_t At(int row, int head, int heads, int d) const {
    return static_cast<size_t>((row * heads + head) * row_ + d);
  }

  Case case_;
  int length_;
  int row_;
  KvLayout layout_;
  AttentionShape shape_;
  std::vector<int32_t> table_;
  tensor::AlignedBuffer memory_;
  std::vector<float> kv_, index_, q_;
};

std::vector<int32_t> UpTo(int position) {
  std::vector<int32_t> all(static_cast<size_t>(position) + 1);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// Attention of position `position` by `isa` over what it has chosen.
void ExpectNear(const Fixture& fixture, Isa isa, int position, const std::vector<int32_t>& chosen,
                std::span<const float> got) {
  const std::vector<double> want = fixture.Oracle(position, chosen);
  ASSERT_EQ(want.size(), got.size());
  const bool bf16 = AttendsBf16(isa, fixture.layout());
  double errors = 0;
  double squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = double{got[i]} - want[i];
    errors += error * error;
    squares += want[i] * want[i];
    if (bf16) continue;
    ASSERT_LT(std::abs(error), 2e-4) << "position " << position << " value " << i;
  }
  if (bf16) {
    ASSERT_LT(std::sqrt(errors / squares), fixture.bf16_error()) << "position " << position;
  }
}

TEST(LatentAttention, Dense_AgainstDoubleOracle) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, 300);
    const auto width = static_cast<size_t>(c.heads * c.latent_dim);
    const std::vector<float> out = fixture.Attend(BestIsa(), 2, 0, 300);
    for (const int position : {0, 1, 15, 16, 100, 255, 256, 299}) {
      SCOPED_TRACE(testing::Message() << c);
      ExpectNear(fixture, BestIsa(), position, UpTo(position),
                 std::span(out).subspan(static_cast<size_t>(position) * width, width));
    }
  }
}

TEST(LatentAttention, EveryIsa_AgainstGeneric_SameBits) {
  for (const Case& c : Cases()) {
    if (c.heads > 64) continue;  // Plain loops; the width of the batch changes no arithmetic.
    Fixture fixture(c, 290);
    const auto expected = fixture.Attend(Isa::kGeneric, 1, 250, 40);
    for (const Isa isa : AvailableIsas()) {
      if (AttendsBf16(isa, fixture.layout())) continue;  // Pinned by the next test.
      EXPECT_TRUE(SameBits(expected, fixture.Attend(isa, 1, 250, 40))) << IsaName(isa) << " " << c;
    }
  }
}

TEST(LatentAttention, RowsAsKeysAndValuesOfAHead_SameBits) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, 290);
    EXPECT_TRUE(
        SameBits(fixture.AttendAsHeads(BestIsa(), 290), fixture.Attend(BestIsa(), 2, 0, 290)))
        << c;
  }
}

TEST(LatentAttention, ChunksAndThreads_SameBits) {
  for (const Case& c : Cases()) {
    const int length = 600;
    Fixture fixture(c, length);
    const auto width = static_cast<size_t>(c.heads * c.latent_dim);
    const auto whole = fixture.Attend(BestIsa(), 1, 0, length);
    for (const int threads : {1, 2, 3}) {
      for (const int chunk : {1, 7, 64}) {
        for (int start = length - 2 * chunk; start < length; start += chunk) {
          const auto part = fixture.Attend(BestIsa(), threads, start, chunk);
          EXPECT_TRUE(SameBits(std::span(whole).subspan(static_cast<size_t>(start) * width,
                                                        static_cast<size_t>(chunk) * width),
                               part))
              << c << " threads " << threads << " chunk " << chunk;
        }
      }
    }
  }
}

TEST(LatentAttention, SelectionOfAll_SameBitsAsDense) {
  for (const Case& c : Cases()) {
    for (const Isa isa : AvailableIsas()) {
      if (isa == Isa::kGeneric && AvailableIsas().size() > 1) continue;
      Fixture fixture(c, 300);
      std::vector<std::vector<int32_t>> chosen;
      for (int p = 280; p < 300; ++p) chosen.push_back(UpTo(p));
      EXPECT_TRUE(
          SameBits(fixture.Attend(isa, 2, 280, 20), fixture.Attend(isa, 2, 280, 20, &chosen)))
          << IsaName(isa) << " " << c;
    }
  }
}

TEST(LatentAttention, Selection_AgainstDoubleOracle_OnEveryIsa) {
  for (const Case& c : Cases()) {
    Fixture fixture(c, 700);
    const auto width = static_cast<size_t>(c.heads * c.latent_dim);
    std::vector<std::vector<int32_t>> chosen;
    for (int p = 690; p < 695; ++p) {
      chosen.emplace_back();
      for (int32_t s = p % 3; s <= p; s += 2 + p % 2) chosen.back().push_back(s);
    }
    std::vector<float> expected;
    for (const Isa isa : AvailableIsas()) {
      const std::vector<float> out = fixture.Attend(isa, 2, 690, 5, &chosen);
      const bool bf16 = AttendsBf16(isa, fixture.layout());
      if (expected.empty() || bf16) {
        SCOPED_TRACE(testing::Message() << IsaName(isa) << " " << c);
        for (size_t i = 0; i < chosen.size(); ++i) {
          ExpectNear(fixture, isa, 690 + static_cast<int>(i), chosen[i],
                     std::span(out).subspan(i * width, width));
        }
      }
      if (bf16) continue;
      if (expected.empty()) expected = out;
      EXPECT_TRUE(SameBits(expected, out)) << IsaName(isa) << " " << c;
    }
  }
}

TEST(LatentLayout, BytesPerToken_AreLatentRotaryAndIndexValues) {
  const Case c{.heads = 128, .latent_dim = 512, .rope_dim = 64, .index_dim = 128};
  Fixture fixture(c, 16);
  EXPECT_EQ(fixture.layout().bytes_per_token(), 2u * 2u * (512u + 64u + 128u));
}

}  // namespace
}  // namespace halfmoon::kernels
