// SPDX-License-Identifier: Apache-2.0
#include "kernels/rowwise.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

constexpr int64_t kCounts[] = {1, 5, 15, 16, 17, 31, 32, 48, 63, 100, 576, 1000};

// Rows with a stride, so that writing past a row shows.
struct TestRows {
  std::vector<float> values;
  Rows rows;
  TestRows(int64_t count, int64_t n, uint32_t seed, float scale = 1.0f) {
    const int64_t stride = n + 3;
    values = RandomFloats(static_cast<size_t>(count * stride), seed, scale);
    rows = {values.data(), count, stride};
  }
};

double SumOf(const std::function<double(int64_t)>& term, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += term(i);
  return sum;
}

TEST(RmsNorm, Rows_AgainstDoubleOracle) {
  ThreadPool pool(2);
  for (const int64_t n : kCounts) {
    TestRows x(3, n, 1);
    TestRows out(3, n, 2);
    const std::vector<float> w = RandomFloats(static_cast<size_t>(n), 3);
    RmsNorm(Stream(pool, Isa::kGeneric), x.rows, w.data(), n, 1e-5f, out.rows);
    for (int64_t i = 0; i < 3; ++i) {
      const float* row = x.rows.row(i);
      const double mean = SumOf([&](int64_t j) { return double{row[j]} * double{row[j]}; }, n) /
                          static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j) {
        const double expected =
            double{w[static_cast<size_t>(j)]} * double{row[j]} / std::sqrt(mean + 1e-5);
        EXPECT_NEAR(out.rows.row(i)[j], expected,
                    std::abs(expected) * (8 + static_cast<double>(n) / 16) * 0x1p-24);
      }
    }
  }
}

TEST(SiluMul, Rows_AgainstDoubleOracle) {
  ThreadPool pool(1);
  TestRows gate(1, 1000, 4, 20.0f);
  TestRows up(1, 1000, 5);
  TestRows out(1, 1000, 6);
  SiluMul(Stream(pool, Isa::kGeneric), gate.rows, up.rows, 1000, out.rows);
  for (size_t i = 0; i < 1000; ++i) {
    const double z = gate.values[i];
    const double expected = z / (1 + std::exp(-z)) * double{up.values[i]};
    EXPECT_NEAR(out.values[i], expected, std::abs(expected) * 6 * 0x1p-24 + 1e-35);
  }
}

TEST(Softmax, Rows_SumToOneAndMatchDoubleOracle) {
  ThreadPool pool(1);
  for (const int64_t n : kCounts) {
    TestRows x(2, n, 7, 5.0f);
    TestRows out(2, n, 8);
    Softmax(Stream(pool, Isa::kGeneric), x.rows, n, out.rows);
    for (int64_t i = 0; i < 2; ++i) {
      const float* row = x.rows.row(i);
      const double sum = SumOf([&](int64_t j) { return std::exp(double{row[j]}); }, n);
      for (int64_t j = 0; j < n; ++j) {
        const double expected = std::exp(double{row[j]}) / sum;
        EXPECT_NEAR(out.rows.row(i)[j], expected, expected * 64 * 0x1p-24);
      }
    }
  }
}

TEST(RopeHalf, Pairs_RotateByTheirAngle) {
  ThreadPool pool(1);
  for (const Isa isa : AvailableIsas()) {
    // 2 heads of 12 of which 8 rotate.
    std::vector<float> x = RandomFloats(24, 9);
    const std::vector<float> before = x;
    const std::vector<float> angle = {0.1f, 1.0f, 2.0f, 3.0f};
    std::vector<float> cos(4);
    std::vector<float> sin(4);
    for (size_t j = 0; j < 4; ++j) {
      cos[j] = std::cos(angle[j]);
      sin[j] = std::sin(angle[j]);
    }
    RopeHalf(Stream(pool, isa), {x.data(), 1, 24}, 2, 12, 8, cos.data(), sin.data());
    for (size_t head = 0; head < 2; ++head) {
      for (size_t j = 0; j < 4; ++j) {
        const float a = before[head * 12 + j];
        const float b = before[head * 12 + j + 4];
        EXPECT_NEAR(x[head * 12 + j], a * cos[j] - b * sin[j], 1e-6f);
        EXPECT_NEAR(x[head * 12 + j + 4], b * cos[j] + a * sin[j], 1e-6f);
      }
      for (size_t j = 8; j < 12; ++j) EXPECT_EQ(x[head * 12 + j], before[head * 12 + j]);
    }
  }
}

TEST(CombineRows, Slots_WeightedInOrder) {
  ThreadPool pool(2);
  std::vector<float> y = RandomFloats(5 * 40, 10);
  const std::vector<int32_t> slot = {4, 0, 2, 2, 1, 3};
  const std::vector<float> weight = {0.5f, 0.25f, 1.0f, -1.0f, 0.125f, 2.0f};
  for (const Isa isa : AvailableIsas()) {
    std::vector<float> out(3 * 40, 99.0f);
    CombineRows(Stream(pool, isa), {y.data(), 5, 40}, slot.data(), weight.data(), 2, 40,
                {out.data(), 3, 40});
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 40; ++j) {
        const float first =
            std::fma(weight[2 * i], y[static_cast<size_t>(slot[2 * i]) * 40 + j], 0.0f);
        EXPECT_EQ(
            out[i * 40 + j],
            std::fma(weight[2 * i + 1], y[static_cast<size_t>(slot[2 * i + 1]) * 40 + j], first));
      }
    }
  }
}

// Runs `op` on every ISA over equal rows, some with values that are not finite, and compares bits.
void ExpectSameBits(
    const std::function<void(const Stream&, const Rows&, const Rows&, int64_t)>& op) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int64_t n : kCounts) {
    std::vector<float> expected_x;
    std::vector<float> expected_y;
    for (const Isa isa : AvailableIsas()) {
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        TestRows x(9, n, 20, 8.0f);
        TestRows y(9, n, 21);
        x.rows.row(1)[n / 2] = std::nanf("");
        x.rows.row(2)[n - 1] = kInfinity;
        x.rows.row(3)[0] = -kInfinity;
        for (int64_t j = 0; j < n; ++j) {
          x.rows.row(4)[j] = 0.0f;
          x.rows.row(5)[j] *= 1e30f;
          x.rows.row(6)[j] *= 1e-42f;
        }
        op(Stream(pool, isa), x.rows, y.rows, n);
        if (expected_x.empty()) {
          expected_x = x.values;
          expected_y = y.values;
        }
        EXPECT_TRUE(SameBits(expected_x, x.values)) << IsaName(isa) << " n " << n;
        EXPECT_TRUE(SameBits(expected_y, y.values)) << IsaName(isa) << " n " << n;
      }
    }
  }
}

TEST(RowwiseBits, RmsNorm_SameOnEveryIsa) {
  const std::vector<float> w = RandomFloats(1000, 22);
  ExpectSameBits([&](const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
    RmsNorm(stream, x, w.data(), n, 1e-6f, y);
    RmsNorm(stream, x, w.data(), n, 1e-6f, x);
  });
}

TEST(RowwiseBits, RmsNormHeads_SameOnEveryIsa) {
  const std::vector<float> w = RandomFloats(1000, 23);
  ExpectSameBits([&](const Stream& stream, const Rows& x, const Rows&, int64_t n) {
    const int heads = n % 4 == 0 ? 4 : 1;
    RmsNormHeads(stream, x, w.data(), heads, n / heads, 1e-6f);
  });
}

TEST(RowwiseBits, AddAndBias_SameOnEveryIsa) {
  const std::vector<float> bias = RandomFloats(1000, 24);
  ExpectSameBits([&](const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
    AddRows(stream, x, y, n);
    AddBias(stream, y, bias.data(), n);
  });
}

TEST(RowwiseBits, SiluMul_SameOnEveryIsa) {
  ExpectSameBits([](const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
    SiluMul(stream, x, y, n, x);
  });
}

TEST(RowwiseBits, Softmax_SameOnEveryIsa) {
  ExpectSameBits([](const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
    Softmax(stream, x, n, y);
    Softmax(stream, x, n, x);
  });
}

TEST(RowwiseBits, RopeHalf_SameOnEveryIsa) {
  const std::vector<float> cos = RandomFloats(9 * 500, 25);
  const std::vector<float> sin = RandomFloats(9 * 500, 26);
  ExpectSameBits([&](const Stream& stream, const Rows& x, const Rows&, int64_t n) {
    RopeHalf(stream, x, 1, n, n / 2 * 2, cos.data(), sin.data());
  });
}

TEST(RowwiseBits, CombineRows_SameOnEveryIsa) {
  const std::vector<float> weight = RandomFloats(27, 27);
  std::vector<int32_t> slot(27);
  for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int32_t>(i * 7 % 9);
  ExpectSameBits([&](const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
    CombineRows(stream, x, slot.data(), weight.data(), 3, n, y);
  });
}

TEST(Rowwise, NoRows_DoesNothing) {
  ThreadPool pool(2);
  for (const Isa isa : AvailableIsas()) {
    const Stream stream(pool, isa);
    const Rows none{nullptr, 0, 16};
    RmsNorm(stream, none, nullptr, 16, 1e-6f, none);
    Softmax(stream, none, 16, none);
    AddRows(stream, none, none, 16);
  }
}

}  // namespace
}  // namespace halfmoon::kernels
