// SPDX-License-Identifier: Apache-2.0
// Products of bfloat16 pairs against a plain model of what matmul.h promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

std::vector<Isa> IsasWithBf16() {
  std::vector<Isa> isas = AvailableIsas();
  std::erase_if(isas, [](Isa isa) { return !MultipliesBf16(isa); });
  return isas;
}

struct Run {
  Isa isa = Isa::kAvx512Bf16;
  int threads = 1;
};

std::vector<float> Multiply(const Run& run, const TestMatrix& w, const std::vector<float>& x,
                            const std::vector<int32_t>& row_index = {}) {
  ThreadPool pool(run.threads);
  const Stream stream(pool, run.isa);
  const int64_t x_rows = static_cast<int64_t>(x.size()) / w.cols;
  const TestBf16 rounded(stream, x, x_rows, w.cols);
  const int64_t rows = row_index.empty() ? x_rows : static_cast<int64_t>(row_index.size());
  // A stride with room, which nothing may write to.
  const int64_t stride = w.rows + 3;
  std::vector<float> y(static_cast<size_t>(rows * stride), -7.0f);
  MatMulJob job;
  job.weight = &w.packed;
  job.x.bf16 = rounded.rows;
  job.row_index = row_index.empty() ? nullptr : row_index.data();
  job.num_rows = rows;
  job.y = y.data();
  job.y_stride = stride;
  MatMul(stream, {&job, 1});
  std::vector<float> dense;
  for (int64_t i = 0; i < rows; ++i) {
    const auto row = y.begin() + i * stride;
    dense.insert(dense.end(), row, row + w.rows);
    EXPECT_EQ(std::count(row + w.rows, row + stride, -7.0f), 3) << "row " << i;
  }
  return dense;
}

/// matmul.h, word for word.
std::vector<float> Model(const TestMatrix& w, const std::vector<float>& x) {
  const int64_t rows = static_cast<int64_t>(x.size()) / w.cols;
  std::vector<float> y;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t n = 0; n < w.rows; ++n) {
      float acc = 0.0f;
      for (int64_t k = 0; k < w.cols; k += 2) {
        float a[2] = {};
        float b[2] = {};
        for (int64_t j = 0; j < std::min<int64_t>(2, w.cols - k); ++j) {
          a[j] = RoundedToBf16(x[static_cast<size_t>(i * w.cols + k + j)]);
          b[j] = w.decoded[static_cast<size_t>(n * w.cols + k + j)];
        }
        acc = AddPair(acc, a, b);
      }
      y.push_back(acc);
    }
  }
  return y;
}

constexpr int64_t kColumns[] = {1, 2, 31, 64, 75, 300, 2051};

TEST(MatMulBf16, EveryRowCountAndShape_AgainstModel_SameBits) {
  constexpr int64_t kMaxRows = 17;
  for (const int64_t cols : kColumns) {
    for (const int64_t outputs : {1, 45, 80, 128}) {
      const TestMatrix w(DType::kBF16, outputs, cols, 5);
      const std::vector<float> x = RandomFloats(static_cast<size_t>(kMaxRows * cols), 6);
      const std::vector<float> expected = Model(w, x);
      for (const Isa isa : IsasWithBf16()) {
        for (int64_t t = 1; t <= kMaxRows; ++t) {
          const std::vector<float> first(x.begin(), x.begin() + t * cols);
          EXPECT_TRUE(SameBits(std::span(expected).first(static_cast<size_t>(t * outputs)),
                               Multiply({isa}, w, first)))
              << IsaName(isa) << " N " << outputs << " K " << cols << " T " << t;
        }
      }
    }
  }
}

TEST(MatMulBf16, RowsAloneOrTogether_AnyThreads_SameBits) {
  for (const int64_t cols : {300, 2304}) {
    const TestMatrix w(DType::kBF16, 100, cols, 7);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(300 * cols), 8);
    for (const Isa isa : IsasWithBf16()) {
      const std::vector<float> together = Multiply({isa, 1}, w, x);
      EXPECT_TRUE(SameBits(together, Multiply({isa, 3}, w, x))) << IsaName(isa);
      for (const int64_t row : {0, 7, 255, 256, 299}) {
        const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
        EXPECT_TRUE(SameBits(std::span(together).subspan(static_cast<size_t>(row * 100), 100),
                             Multiply({isa, 2}, w, one)))
            << IsaName(isa) << " row " << row;
      }
    }
  }
}

TEST(MatMulBf16, RowIndex_GathersActivationRows) {
  const TestMatrix w(DType::kBF16, 20, 75, 9);
  const std::vector<float> x = RandomFloats(6 * 75, 10);
  const std::vector<int32_t> index = {5, 0, 5, 3, 1, 1, 4, 2, 0, 5, 3};
  for (const Isa isa : IsasWithBf16()) {
    const std::vector<float> all = Multiply({isa, 1}, w, x);
    const std::vector<float> gathered = Multiply({isa, 2}, w, x, index);
    for (size_t i = 0; i < index.size(); ++i) {
      EXPECT_TRUE(SameBits(std::span(all).subspan(static_cast<size_t>(index[i]) * 20, 20),
                           std::span(gathered).subspan(i * 20, 20)))
          << IsaName(isa) << " row " << i;
    }
  }
}

// Sums below the normal numbers, far apart, and activations that are not finite.
TEST(MatMulBf16, ExtremeActivations_AgainstModel) {
  const TestMatrix w(DType::kBF16, 18, 512, 24);
  std::vector<float> x = RandomFloats(6 * 512, 25);
  for (size_t k = 0; k < 512; ++k) {
    x[k] *= 1e30f;
    x[512 + k] = 0.0f;
    x[2 * 512 + k] *= 1e-36f;
    x[3 * 512 + k] *= k % 2 == 0 ? 1e-38f : 1e-39f;
    x[4 * 512 + k] *= k % 3 == 0 ? 1e10f : 1e-10f;
  }
  x[5 * 512 + 100] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> expected = Model(w, x);
  for (const Isa isa : IsasWithBf16()) {
    const std::vector<float> y = Multiply({isa, 1}, w, x);
    constexpr size_t kFinite = size_t{5} * 18;
    EXPECT_TRUE(SameBits(std::span(expected).first(kFinite), std::span(y).first(kFinite)));
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i >= kFinite) << i;
  }
}

TEST(MatMulBf16, AgainstFloatActivations_WithinRoundingOfBfloat16) {
  const TestMatrix w(DType::kBF16, 64, 2048, 26);
  const std::vector<float> x = RandomFloats(4 * 2048, 27);
  for (const Isa isa : IsasWithBf16()) {
    ThreadPool pool(1);
    const Stream stream(pool, isa);
    std::vector<float> exact(4 * 64);
    const MatMulJob job{.weight = &w.packed,
                        .x = {.f32 = x.data(), .stride = 2048},
                        .num_rows = 4,
                        .y = exact.data(),
                        .y_stride = 64};
    MatMul(stream, {&job, 1});
    const std::vector<float> y = Multiply({isa}, w, x);
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      error += std::pow(double{y[i]} - exact[i], 2);
      norm += std::pow(double{exact[i]}, 2);
    }
    // Rounding to 8 bits errs by at most 2^-8 of a value, 0.0016 root mean square.
    EXPECT_LT(std::sqrt(error / norm), 0.0025);
  }
}

TEST(RoundRows, AnyValue_NearestBfloat16) {
  for (const Isa isa : IsasWithBf16()) {
    ThreadPool pool(2);
    const Stream stream(pool, isa);
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> x = RandomFloats(3 * 75, 30);
    // Ties in both directions, the largest numbers, subnormals and what is not finite.
    const float special[] = {1.00390625f, 1.01171875f, -1.00390625f, 3.4e38f,  -0.0f,
                             1e-39f,      -1e-45f,     infinity,     -infinity};
    std::copy(std::begin(special), std::end(special), x.begin());
    for (const int64_t k : {1, 2, 15, 16, 17, 33, 75}) {
      const int64_t rows = static_cast<int64_t>(x.size()) / k;
      const TestBf16 out(stream, x, rows, k);
      for (int64_t i = 0; i < rows; ++i) {
        const uint16_t* row = out.rows.x + i * out.rows.stride;
        for (int64_t j = 0; j < k; ++j) {
          EXPECT_EQ(tensor::BF16ToF32(row[j]), RoundedToBf16(x[static_cast<size_t>(i * k + j)]))
              << k << " " << i << " " << j;
        }
        EXPECT_EQ(row[k], k % 2 == 1 ? 0 : 0x7FC0) << k;
        EXPECT_EQ(row[out.rows.stride - 1], 0x7FC0) << "written beyond the row";
      }
    }
    const std::vector<float> nan = {std::nanf("")};
    EXPECT_TRUE(std::isnan(tensor::BF16ToF32(TestBf16(stream, nan, 1, 1).values[0])));
  }
}

}  // namespace
}  // namespace halfmoon::kernels
