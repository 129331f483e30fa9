// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <limits>
#include <tuple>
#include <utility>

#include "kernels/test_support.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

// What one product needs besides its weights.
struct Run {
  Isa isa = Isa::kGeneric;
  int threads = 1;
  bool int8 = false;
};

std::vector<float> Multiply(const Run& run, const TestMatrix& w, const std::vector<float>& x,
                            const std::vector<int32_t>& row_index = {}) {
  ThreadPool pool(run.threads);
  const Stream stream(pool, run.isa);
  const int64_t x_rows = static_cast<int64_t>(x.size()) / w.cols;
  const int64_t rows = row_index.empty() ? x_rows : static_cast<int64_t>(row_index.size());
  const TestQuantized quantized(stream, x, x_rows, w.cols);
  std::vector<float> y(static_cast<size_t>(rows * w.rows), -7.0f);
  MatMulJob job;
  job.weight = &w.packed;
  if (run.int8) {
    job.x.int8 = quantized.rows;
  } else {
    job.x.f32 = x.data();
    job.x.stride = w.cols;
  }
  job.row_index = row_index.empty() ? nullptr : row_index.data();
  job.num_rows = rows;
  job.y = y.data();
  job.y_stride = w.rows;
  MatMul(stream, {&job, 1});
  return y;
}

bool IsPlain(DType dtype) { return tensor::Info(dtype).block_elements == 1; }

// Smallest and larger column counts with whole blocks; odd ones for plain types.
std::vector<int64_t> ColumnsOf(DType dtype) {
  const int block = tensor::Info(dtype).block_elements;
  if (block == 1) return {1, 31, 64, 75, 300};
  return {block, 3 * block, block == 32 ? 2080 : 1280};
}

class MatMulTypeTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Types, MatMulTypeTest, ::testing::ValuesIn(kWeightTypes),
                         [](const auto& type) {
                           return std::string(tensor::Info(type.param).name);
                         });

TEST_P(MatMulTypeTest, F32_AgainstDoubleOracle_WithinRoundingBound) {
  for (const int64_t cols : ColumnsOf(GetParam())) {
    const TestMatrix w(GetParam(), 37, cols, 1);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(3 * cols), 2);
    const std::vector<float> y = Multiply({}, w, x);
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t n = 0; n < w.rows; ++n) {
        double sum = 0;
        double magnitude = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double product = static_cast<double>(x[static_cast<size_t>(i * cols + k)]) *
                                 static_cast<double>(w.decoded[static_cast<size_t>(n * cols + k)]);
          sum += product;
          magnitude += std::abs(product);
        }
        // cols / 2 roundings in each of two chains, and their sum.
        const double bound = (static_cast<double>(cols) / 2 + 2) * 0x1p-24 * magnitude;
        EXPECT_NEAR(y[static_cast<size_t>(i * w.rows + n)], sum, bound + 1e-37) << cols;
      }
    }
  }
}

TEST_P(MatMulTypeTest, Int8_AgainstDoubleOracle_WithinRoundingBound) {
  if (IsPlain(GetParam())) return;  // Plain formats have no int8 form.
  ThreadPool pool(1);
  const Stream stream(pool, Isa::kGeneric);
  for (const int64_t cols : ColumnsOf(GetParam())) {
    const TestMatrix w(GetParam(), 37, cols, 3);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(3 * cols), 4);
    const TestQuantized quantized(stream, x, 3, cols);
    const std::vector<float> y = Multiply({.int8 = true}, w, x);
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t n = 0; n < w.rows; ++n) {
        double sum = 0;
        double x_norm = 0;
        double w_max = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double xq =
              static_cast<double>(quantized.q[static_cast<size_t>(i * cols + k)]) *
              static_cast<double>(quantized.scale[static_cast<size_t>((i * cols + k) / kGroup)]);
          const auto wk = static_cast<double>(w.decoded[static_cast<size_t>(n * cols + k)]);
          sum += xq * wk;
          x_norm += std::abs(xq);
          w_max = std::max(w_max, std::abs(wk));
        }
        // Up to 4 roundings a group; d q and m are each up to 3 times the largest weight.
        const double bound =
            (static_cast<double>(cols) / kGroup * 4 + 4) * 0x1p-24 * x_norm * 3 * w_max;
        EXPECT_NEAR(y[static_cast<size_t>(i * w.rows + n)], sum, bound) << cols;
      }
    }
  }
}

// Results do not depend on T, so one run of the (slow) generic kernel with all rows serves every T.
TEST_P(MatMulTypeTest, EveryIsaAndRowCount_AgainstGeneric_SameBits) {
  constexpr int64_t kMaxRows = 33;
  for (const int64_t cols : ColumnsOf(GetParam())) {
    for (const int64_t outputs : {1, 45, 128}) {
      const TestMatrix w(GetParam(), outputs, cols, 5);
      const std::vector<float> x = RandomFloats(static_cast<size_t>(kMaxRows * cols), 6);
      for (const bool int8 : {false, true}) {
        if (int8 && IsPlain(GetParam())) continue;
        const std::vector<float> expected = Multiply({.int8 = int8}, w, x);
        for (const Isa isa : AvailableIsas()) {
          if (isa == Isa::kGeneric) continue;
          for (const int64_t t : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33}) {
            const std::vector<float> first(x.begin(), x.begin() + t * cols);
            const auto count = static_cast<size_t>(t * outputs);
            EXPECT_TRUE(
                SameBits(std::span(expected).first(count), Multiply({isa, 1, int8}, w, first)))
                << IsaName(isa) << " int8 " << int8 << " N " << outputs << " K " << cols << " T "
                << t;
          }
        }
      }
    }
  }
}

TEST_P(MatMulTypeTest, GenericRowsAlone_SameBits) {
  const int64_t cols = ColumnsOf(GetParam())[1];
  const TestMatrix w(GetParam(), 20, cols, 40);
  const std::vector<float> x = RandomFloats(static_cast<size_t>(18 * cols), 41);
  for (const bool int8 : {false, true}) {
    if (int8 && IsPlain(GetParam())) continue;
    const std::vector<float> together = Multiply({.threads = 2, .int8 = int8}, w, x);
    for (const int64_t row : {0, 15, 16, 17}) {
      const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
      EXPECT_TRUE(SameBits(std::span(together).subspan(static_cast<size_t>(row * 20), 20),
                           Multiply({.int8 = int8}, w, one)))
          << "row " << row;
    }
  }
}

TEST_P(MatMulTypeTest, RowsAloneOrTogether_AnyThreads_SameBits) {
  const int64_t cols = ColumnsOf(GetParam()).back();
  const TestMatrix w(GetParam(), 100, cols, 7);
  const std::vector<float> x = RandomFloats(static_cast<size_t>(300 * cols), 8);
  for (const Isa isa : AvailableIsas()) {
    if (isa == Isa::kGeneric) continue;  // Equal to the others by the test above, and slow.
    for (const bool int8 : {false, true}) {
      if (int8 && IsPlain(GetParam())) continue;
      const std::vector<float> together = Multiply({isa, 1, int8}, w, x);
      EXPECT_TRUE(SameBits(together, Multiply({isa, 3, int8}, w, x))) << IsaName(isa);
      for (const int64_t row : {0, 7, 255, 256, 299}) {
        const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
        const std::vector<float> alone = Multiply({isa, 2, int8}, w, one);
        EXPECT_TRUE(
            SameBits(std::span(together).subspan(static_cast<size_t>(row * w.rows), 100), alone))
            << IsaName(isa) << " row " << row;
      }
    }
  }
}

TEST_P(MatMulTypeTest, RowIndex_GathersActivationRows) {
  const int64_t cols = ColumnsOf(GetParam())[1];
  const TestMatrix w(GetParam(), 20, cols, 9);
  const std::vector<float> x = RandomFloats(static_cast<size_t>(6 * cols), 10);
  const std::vector<int32_t> index = {5, 0, 5, 3, 1, 1, 4, 2, 0, 5, 3};
  for (const Isa isa : AvailableIsas()) {
    for (const bool int8 : {false, true}) {
      if (int8 && IsPlain(GetParam())) continue;
      const std::vector<float> all = Multiply({isa, 1, int8}, w, x);
      const std::vector<float> gathered = Multiply({isa, 2, int8}, w, x, index);
      for (size_t i = 0; i < index.size(); ++i) {
        EXPECT_TRUE(SameBits(std::span(all).subspan(static_cast<size_t>(index[i]) * 20, 20),
                             std::span(gathered).subspan(i * 20, 20)))
            << IsaName(isa) << " row " << i;
      }
    }
  }
}

TEST(MatMul, ManyJobsTogether_SameBitsAsAlone) {
  constexpr int64_t kCols = 96;
  const std::vector<float> x = RandomFloats(40 * kCols, 11);
  std::vector<TestMatrix> weights;
  weights.reserve(5);
  for (uint32_t i = 0; i < 5; ++i) weights.emplace_back(DType::kQ4_0, 16 + 24 * i, kCols, 12 + i);
  for (const Isa isa : AvailableIsas()) {
    ThreadPool pool(3);
    const Stream stream(pool, isa);
    const TestQuantized quantized(stream, x, 40, kCols);
    // More jobs than are planned at once; some without rows.
    std::vector<MatMulJob> jobs;
    std::vector<std::vector<float>> outputs;
    for (size_t i = 0; i < 300; ++i) {
      const TestMatrix& w = weights[i % weights.size()];
      MatMulJob job;
      job.weight = &w.packed;
      job.x.int8 = quantized.rows;
      job.num_rows = static_cast<int64_t>(i % 4);
      outputs.emplace_back(static_cast<size_t>(job.num_rows * w.rows));
      job.y = outputs.back().data();
      job.y_stride = w.rows;
      jobs.push_back(job);
    }
    MatMul(stream, jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      std::vector<float> alone(outputs[i].size());
      jobs[i].y = alone.data();
      MatMul(stream, {&jobs[i], 1});
      EXPECT_TRUE(SameBits(alone, outputs[i])) << IsaName(isa) << " job " << i;
    }
  }
}

TEST(MatMul, OutputStride_LeavesTheRestAlone) {
  const TestMatrix w(DType::kQ4_1, 21, 64, 20);
  const std::vector<float> x = RandomFloats(9 * 64, 21);
  for (const Isa isa : AvailableIsas()) {
    ThreadPool pool(2);
    const Stream stream(pool, isa);
    const TestQuantized quantized(stream, x, 9, 64);
    for (const bool int8 : {false, true}) {
      std::vector<float> y(9 * 30, -3.0f);
      MatMulJob job;
      job.weight = &w.packed;
      if (int8) {
        job.x.int8 = quantized.rows;
      } else {
        job.x = {.f32 = x.data(), .stride = 64};
      }
      job.num_rows = 9;
      job.y = y.data();
      job.y_stride = 30;
      MatMul(stream, {&job, 1});
      for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i] == -3.0f, i % 30 >= 21) << i;
    }
  }
}

TEST(MatMul, NotFiniteActivations_ShowAsNaNInTheirRowOnly) {
  for (const DType dtype : kWeightTypes) {
    const TestMatrix w(dtype, 18, 256, 22);
    std::vector<float> x = RandomFloats(3 * 256, 23);
    x[256 + 100] = std::numeric_limits<float>::quiet_NaN();
    for (const Isa isa : AvailableIsas()) {
      for (const bool int8 : {false, true}) {
        if (int8 && IsPlain(dtype)) continue;
        const std::vector<float> y = Multiply({isa, 1, int8}, w, x);
        for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 18 == 1) << i;
      }
    }
  }
}

TEST(MatMul, ExtremeActivations_SameBitsAsGeneric) {
  for (const DType dtype : kWeightTypes) {
    const TestMatrix w(dtype, 18, 512, 24);
    std::vector<float> x = RandomFloats(5 * 512, 25);
    for (size_t k = 0; k < 512; ++k) {
      x[k] *= 1e30f;
      x[512 + k] = 0.0f;
      x[2 * 512 + k] *= 1e-36f;
      x[3 * 512 + k] = k % 2 == 0 ? 127.0f : -127.0f;
      x[4 * 512 + k] = -1.0f;
    }
    for (const bool int8 : {false, true}) {
      if (int8 && IsPlain(dtype)) continue;
      const std::vector<float> expected = Multiply({.int8 = int8}, w, x);
      for (size_t n = 0; n < 18; ++n) {
        EXPECT_TRUE(std::isfinite(expected[n]));
        EXPECT_EQ(expected[18 + n], 0.0f);
      }
      for (const Isa isa : AvailableIsas()) {
        EXPECT_TRUE(SameBits(expected, Multiply({isa, 1, int8}, w, x))) << IsaName(isa);
      }
    }
  }
}

// Stored bytes at their limits: sums that would overflow narrower accumulators must be exact.
TEST(MatMul, LargestStoredIntegers_SameBitsAsGeneric) {
  for (const DType dtype : kWeightTypes) {
    if (IsPlain(dtype)) continue;
    const tensor::DTypeInfo& info = tensor::Info(dtype);
    for (const uint8_t fill : {0x00, 0xFF, 0x80, 0x7F}) {
      std::vector<std::byte> bytes(static_cast<size_t>(16 * 256 / info.block_elements) *
                                   static_cast<size_t>(info.block_bytes));
      std::fill(bytes.begin(), bytes.end(), std::byte{fill});
      // Finite scales: float16 1 and 2^-10.
      for (size_t b = 0; b < bytes.size(); b += static_cast<size_t>(info.block_bytes)) {
        std::byte high{0x3C};
        for (const size_t offset : ScaleOffsets(dtype)) {
          bytes[b + offset] = std::byte{0x00};
          bytes[b + offset + 1] = std::exchange(high, std::byte{0x14});
        }
        if (dtype == DType::kMXFP4) bytes[b] = std::byte{128};
      }
      RowSource source;
      source.dtype = dtype;
      source.rows = 16;
      source.cols = 256;
      source.row = [&](int64_t r) {
        return bytes.data() + static_cast<size_t>(r) * bytes.size() / 16;
      };
      Result<PackedMatrix> packed = Pack(source);
      ASSERT_TRUE(packed.ok());
      std::vector<float> x(4 * 256);
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] = i / 256 == 0 ? 1.0f : i / 256 == 1 ? -1.0f : (i % 3 == 0 ? -1.0f : 1.0f);
      }
      std::vector<float> expected;
      for (const Isa isa : AvailableIsas()) {
        ThreadPool pool(1);
        const Stream stream(pool, isa);
        const TestQuantized quantized(stream, x, 4, 256);
        std::vector<float> y(4 * 16);
        MatMulJob job;
        job.weight = &*packed;
        job.x.int8 = quantized.rows;
        job.num_rows = 4;
        job.y = y.data();
        job.y_stride = 16;
        MatMul(stream, {&job, 1});
        if (isa == Isa::kGeneric) expected = y;
        EXPECT_TRUE(SameBits(expected, y))
            << IsaName(isa) << " " << info.name << " " << static_cast<int>(fill);
        EXPECT_FALSE(std::isnan(y[0]));
      }
    }
  }
}

TEST(QuantizeRows, RandomRows_ErrorAtMostHalfAScale) {
  ThreadPool pool(2);
  for (const Isa isa : AvailableIsas()) {
    const Stream stream(pool, isa);
    for (const int64_t k : {1, 15, 31, 32, 33, 50, 576}) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(3 * k), 30);
      const TestQuantized out(stream, x, 3, k);
      const int64_t groups = out.rows.groups;
      for (int64_t i = 0; i < 3; ++i) {
        for (int64_t j = 0; j < groups * kGroup; ++j) {
          const float scale = out.scale[static_cast<size_t>(i * groups + j / kGroup)];
          const int8_t q = out.q[static_cast<size_t>(i * groups * kGroup + j)];
          const float value = j < k ? x[static_cast<size_t>(i * k + j)] : 0.0f;
          EXPECT_NEAR(value, static_cast<float>(q) * scale, scale * 0.50001f);
        }
        for (int64_t h = 0; h < groups * 2; ++h) {
          int32_t sum = 0;
          for (int64_t j = 0; j < 16; ++j) {
            sum += out.q[static_cast<size_t>(i * groups * kGroup + h * 16 + j)];
          }
          EXPECT_EQ(sum, out.sum16[static_cast<size_t>(i * groups * 2 + h)]);
        }
      }
    }
  }
}

TEST(QuantizeRows, EveryIsa_AgainstGeneric_SameBits) {
  ThreadPool pool(1);
  const Stream generic(pool, Isa::kGeneric);
  for (const int64_t k : {1, 15, 16, 17, 31, 32, 33, 50, 576}) {
    std::vector<float> x = RandomFloats(static_cast<size_t>(12 * k), 31);
    const float infinity = std::numeric_limits<float>::infinity();
    // Ties to even, limits of the range, subnormals, and values that are not finite.
    const float special[] = {0.0f,  1e-45f, 1e-38f,  8e-31f,   7e-31f,    3e38f,
                             -1.0f, 63.5f,  -127.0f, infinity, -infinity, std::nanf("")};
    for (size_t i = 0; i < 12; ++i) {
      if (i < 6) {
        for (int64_t j = 0; j < k; ++j)
          x[i * static_cast<size_t>(k) + static_cast<size_t>(j)] *= special[i];
      } else {
        for (int64_t j = 0; j < k; ++j) {
          x[i * static_cast<size_t>(k) + static_cast<size_t>(j)] =
              static_cast<float>(j % 255) - 126.5f;
        }
        x[i * static_cast<size_t>(k) + static_cast<size_t>(k / 2)] = special[i];
      }
    }
    const TestQuantized expected(generic, x, 12, k);
    for (const Isa isa : AvailableIsas()) {
      const TestQuantized out(Stream(pool, isa), x, 12, k);
      EXPECT_EQ(expected.q, out.q) << IsaName(isa) << " " << k;
      EXPECT_TRUE(SameBits(expected.scale, out.scale)) << IsaName(isa) << " " << k;
      EXPECT_EQ(expected.sum16, out.sum16) << IsaName(isa) << " " << k;
    }
  }
}

}  // namespace
}  // namespace halfmoon::kernels
