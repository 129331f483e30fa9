// SPDX-License-Identifier: Apache-2.0
// Matrix products on weights whose scales lie beside them: float8 with blocks, 4-bit with groups.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>

#include "kernels/test_support.h"
#include "tensor/float16.h"

namespace halfmoon::kernels {
namespace {

struct Case {
  tensor::DType dtype;
  int64_t rows;
  int64_t cols;
  int64_t group;
  tensor::DType scale = tensor::DType::kBF16;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << tensor::Info(c.dtype).name << " [" << c.rows << ", " << c.cols << "] group "
             << c.group << " scales " << tensor::Info(c.scale).name;
}

/// Random values with a scale per row and group, and what they decode to.
class Weights {
 public:
  explicit Weights(const Case& c) : case_(c) {
    std::mt19937 random(7);
    const bool f8 = c.dtype == tensor::DType::kF8E4M3;
    row_bytes_ = *tensor::SizeBytes(c.dtype, {f8 ? c.cols : (c.cols + 7) / 8 * 8});
    groups_ = (c.cols + c.group - 1) / c.group;
    scale_bytes_ = static_cast<size_t>(tensor::Info(c.scale).block_bytes);
    bytes_.resize(static_cast<size_t>(c.rows) * row_bytes_);
    scales_.resize(static_cast<size_t>(c.rows * groups_) * scale_bytes_);
    for (int64_t i = 0; i < c.rows * groups_; ++i) {
      std::byte* at = scales_.data() + static_cast<size_t>(i) * scale_bytes_;
      if (c.scale == tensor::DType::kF8E8M0) {
        *at = static_cast<std::byte>(110 + random() % 20);
        continue;
      }
      const float scale = 0.001f * static_cast<float>(1 + random() % 1000);
      EXPECT_TRUE(quant::EncodeRow(c.scale, &scale, 1, at).ok());
    }
    for (int64_t r = 0; r < c.rows; ++r) {
      auto* row = reinterpret_cast<uint8_t*>(bytes_.data()) + static_cast<size_t>(r) * row_bytes_;
      for (size_t j = 0; j < row_bytes_; ++j) {
        row[j] = static_cast<uint8_t>(random());
        if (f8 && (row[j] & 0x7F) == 0x7F) row[j] = 0;
      }
      for (int64_t k = 0; k < c.cols; ++k) decoded.push_back(Value(row, r, k));
    }
    Result<PackedMatrix> result = Pack(
        {.dtype = c.dtype,
         .rows = c.rows,
         .cols = c.cols,
         .row = [this](int64_t r) { return bytes_.data() + static_cast<size_t>(r) * row_bytes_; },
         .scales =
             [this](int64_t r) {
               return scales_.data() + static_cast<size_t>(r * groups_) * scale_bytes_;
             },
         .scale_group = c.group,
         .scale_dtype = c.scale});
    EXPECT_TRUE(result.ok()) << result.error().message();
    packed = std::move(result).value();
  }

  std::vector<float> decoded;  ///< [rows, cols]
  PackedMatrix packed;

  /// Value k of row r of kF8E4M3 without its scale, and that scale.
  float F8(int64_t r, int64_t k) const {
    const auto at = static_cast<size_t>(r) * row_bytes_ + static_cast<size_t>(k);
    return tensor::F8E4M3ToF32(static_cast<uint8_t>(bytes_[at]));
  }
  float ScaleOf(int64_t r, int64_t k) const { return Scale(r * groups_ + k / case_.group); }

 private:
  float Scale(int64_t index) const {
    const std::byte* at = scales_.data() + static_cast<size_t>(index) * scale_bytes_;
    if (case_.scale == tensor::DType::kF8E8M0) {
      return std::ldexp(1.0f, static_cast<int>(*at) - 127);
    }
    float scale = 0.0f;
    EXPECT_TRUE(quant::DecodeRow(case_.scale, at, 1, &scale).ok());
    return scale;
  }
  float Value(const uint8_t* row, int64_t r, int64_t k) const {
    const float scale = ScaleOf(r, k);
    if (case_.dtype == tensor::DType::kF8E4M3) return tensor::F8E4M3ToF32(row[k]) * scale;
    if (case_.dtype == tensor::DType::kI8x4) {
      return static_cast<float>(static_cast<int>(row[k]) - 128) * scale;
    }
    uint32_t word;
    std::memcpy(&word, row + k / 8 * 4, 4);
    return static_cast<float>(static_cast<int>(word >> 4 * (k % 8) & 15u) - 8) * scale;
  }

  Case case_;
  size_t row_bytes_ = 0;
  size_t scale_bytes_ = 0;
  int64_t groups_ = 0;
  std::vector<std::byte> bytes_;
  std::vector<std::byte> scales_;
};

std::vector<Case> Cases() {
  using tensor::DType;
  return {{DType::kF8E4M3, 40, 256, 128, DType::kF32},
          {DType::kF8E4M3, 16, 130, 128, DType::kF32},
          {DType::kF8E4M3, 5, 61, 128, DType::kF8E8M0},
          {DType::kF8E4M3, 33, 515, 256, DType::kBF16},
          {DType::kI4x8, 40, 256, 32},
          {DType::kI4x8, 17, 96, 32, DType::kF16},
          {DType::kI4x8, 9, 320, 64},
          {DType::kI4x8, 16, 32, 128},
          {DType::kI8x4, 40, 256, 32},
          {DType::kI8x4, 17, 96, 32, DType::kF16},
          {DType::kI8x4, 9, 320, 64}};
}

std::vector<float> Multiply(Isa isa, const Weights& weights, const std::vector<float>& x,
                            int64_t num_rows, bool int8) {
  ThreadPool pool(2);
  const Stream stream(pool, isa);
  const int64_t cols = weights.packed.cols();
  std::vector<float> y(static_cast<size_t>(num_rows * weights.packed.rows()));
  MatMulJob job{.weight = &weights.packed,
                .num_rows = num_rows,
                .y = y.data(),
                .y_stride = weights.packed.rows()};
  const TestQuantized quantized(stream, x, num_rows, cols);
  if (int8) {
    job.x.int8 = quantized.rows;
  } else {
    job.x.f32 = x.data();
    job.x.stride = cols;
  }
  MatMul(stream, {&job, 1});
  return y;
}

TEST(ScaledFormats, F32Activations_AgainstOracle_EveryIsaSameBits) {
  for (const Case& c : Cases()) {
    const Weights weights(c);
    for (const int64_t rows : {1, 3, 9, 40}) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * c.cols), 3);
      const std::vector<float> expected = Multiply(Isa::kGeneric, weights, x, rows, false);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t n = 0; n < c.rows; ++n) {
          double sum = 0;
          double size = 0;
          for (int64_t k = 0; k < c.cols; ++k) {
            const double product = double{x[static_cast<size_t>(i * c.cols + k)]} *
                                   double{weights.decoded[static_cast<size_t>(n * c.cols + k)]};
            sum += product;
            size += std::abs(product);
          }
          ASSERT_NEAR(expected[static_cast<size_t>(i * c.rows + n)], sum, 1e-6 * size) << c;
        }
      }
      for (const Isa isa : AvailableIsas()) {
        EXPECT_TRUE(SameBits(expected, Multiply(isa, weights, x, rows, false)))
            << IsaName(isa) << " " << c << " rows " << rows;
      }
    }
  }
}

TEST(ScaledFormats, Int8Activations_AgainstF32_EveryIsaSameBits) {
  for (const Case& c : Cases()) {
    if (c.dtype == tensor::DType::kF8E4M3) continue;
    const Weights weights(c);
    for (const int64_t rows : {1, 2, 9, 40}) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * c.cols), 4);
      const std::vector<float> exact = Multiply(Isa::kGeneric, weights, x, rows, false);
      const std::vector<float> expected = Multiply(Isa::kGeneric, weights, x, rows, true);
      double error = 0;
      double norm = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(double{expected[i]} - exact[i], 2);
        norm += std::pow(double{exact[i]}, 2);
      }
      EXPECT_LT(std::sqrt(error / norm), 0.01) << c;
      for (const Isa isa : AvailableIsas()) {
        EXPECT_TRUE(SameBits(expected, Multiply(isa, weights, x, rows, true)))
            << IsaName(isa) << " " << c << " rows " << rows;
      }
    }
  }
}

/// matmul.h, word for word.
std::vector<float> Bf16Model(const Weights& weights, const std::vector<float>& x) {
  const int64_t cols = weights.packed.cols();
  std::vector<float> y;
  for (auto row = x.begin(); row != x.end(); row += cols) {
    for (int64_t n = 0; n < weights.packed.rows(); ++n) {
      float acc = 0.0f;
      for (int64_t group = 0; group < cols; group += kF8Group) {
        const int64_t end = std::min(cols, group + kF8Group);
        float sum = 0.0f;
        for (int64_t k = group; k < end; k += 2) {
          float a[2] = {};
          float b[2] = {};
          for (int64_t j = 0; j < std::min<int64_t>(2, end - k); ++j) {
            a[j] = RoundedToBf16(row[k + j]);
            b[j] = weights.F8(n, k + j) / 256.0f;
          }
          sum = AddPair(sum, a, b);
        }
        acc = std::fma(sum, weights.ScaleOf(n, group) * 256.0f, acc);
      }
      y.push_back(acc);
    }
  }
  return y;
}

std::vector<float> MultiplyBf16(const Stream& stream, const Weights& weights,
                                const std::vector<float>& x,
                                const std::vector<int32_t>& row_index = {}) {
  const int64_t cols = weights.packed.cols();
  const int64_t x_rows = static_cast<int64_t>(x.size()) / cols;
  const TestBf16 rounded(stream, x, x_rows, cols);
  const int64_t rows = row_index.empty() ? x_rows : static_cast<int64_t>(row_index.size());
  // A stride with room, which nothing may write to.
  const int64_t stride = weights.packed.rows() + 3;
  std::vector<float> y(static_cast<size_t>(rows * stride), -7.0f);
  const MatMulJob job{.weight = &weights.packed,
                      .x = {.bf16 = rounded.rows},
                      .row_index = row_index.empty() ? nullptr : row_index.data(),
                      .num_rows = rows,
                      .y = y.data(),
                      .y_stride = stride};
  MatMul(stream, {&job, 1});
  std::vector<float> dense;
  for (auto row = y.begin(); row != y.end(); row += stride) {
    dense.insert(dense.end(), row, row + weights.packed.rows());
    EXPECT_EQ(std::count(row + weights.packed.rows(), row + stride, -7.0f), 3);
  }
  return dense;
}

std::vector<Isa> IsasWithBf16F8() {
  std::vector<Isa> isas = AvailableIsas();
  std::erase_if(isas, [](Isa isa) { return !MultipliesBf16(isa, WeightFormat::kF8); });
  return isas;
}

// 128 outputs are several calls of four tiles, 500 rows several pieces.
TEST(ScaledFormats, Bf16Activations_AgainstModel_AnyRowsAndThreads_SameBits) {
  std::vector<Case> cases = Cases();
  cases.push_back({tensor::DType::kF8E4M3, 128, 384, 128, tensor::DType::kF32});
  cases.push_back({tensor::DType::kF8E4M3, 70, 1, 128, tensor::DType::kF32});
  for (const Case& c : cases) {
    if (c.dtype != tensor::DType::kF8E4M3) continue;
    const Weights weights(c);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(500 * c.cols), 5);
    const std::vector<float> few(x.begin(), x.begin() + 17 * c.cols);
    const std::vector<float> expected = Bf16Model(weights, few);
    for (const Isa isa : IsasWithBf16F8()) {
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        const Stream stream(pool, isa);
        for (int64_t rows = 1; rows <= 17; ++rows) {
          const std::vector<float> first(x.begin(), x.begin() + rows * c.cols);
          EXPECT_TRUE(SameBits(std::span(expected).first(static_cast<size_t>(rows * c.rows)),
                               MultiplyBf16(stream, weights, first)))
              << IsaName(isa) << " " << c << " rows " << rows;
        }
        const std::vector<float> all = MultiplyBf16(stream, weights, x);
        EXPECT_TRUE(SameBits(expected, std::span(all).first(expected.size()))) << c;
        const std::vector<int32_t> index = {5, 0, 16, 16, 3};
        const std::vector<float> gathered = MultiplyBf16(stream, weights, few, index);
        for (size_t i = 0; i < index.size(); ++i) {
          const auto outputs = static_cast<size_t>(c.rows);
          EXPECT_TRUE(SameBits(
              std::span(expected).subspan(static_cast<size_t>(index[i]) * outputs, outputs),
              std::span(gathered).subspan(i * outputs, outputs)))
              << c << " row " << i;
        }
      }
    }
  }
}

TEST(ScaledFormats, Bf16Activations_EveryCodeAndWhatIsNotFinite) {
  const Weights weights({tensor::DType::kF8E4M3, 64, 256, 128, tensor::DType::kF32});
  for (const Isa isa : IsasWithBf16F8()) {
    ThreadPool pool(1);
    const Stream stream(pool, isa);
    // One input at a time gives each weight back.
    std::vector<float> x(size_t{256} * 256);
    for (size_t k = 0; k < 256; ++k) x[k * 256 + k] = 1.0f;
    const std::vector<float> y = MultiplyBf16(stream, weights, x);
    for (size_t n = 0; n < 64; ++n) {
      for (size_t k = 0; k < 256; ++k) {
        ASSERT_EQ(y[k * 64 + n], weights.decoded[n * 256 + k]) << n << " " << k;
      }
    }
    x[3] = std::nanf("");
    x[256] = INFINITY;
    const std::vector<float> faults = MultiplyBf16(stream, weights, x);
    for (size_t n = 0; n < 64; ++n) {
      EXPECT_TRUE(std::isnan(faults[n]));
      EXPECT_FALSE(std::isfinite(faults[64 + n]));
      EXPECT_TRUE(std::isfinite(faults[128 + n]));
    }
  }
}

TEST(ScaledFormats, UnfitScales_AreRefused) {
  using tensor::DType;
  const auto packs = [](const Case& c) {
    RowSource source{.dtype = c.dtype, .rows = c.rows, .cols = c.cols};
    source.scales = [](int64_t) { return nullptr; };
    source.scale_group = c.group;
    source.scale_dtype = c.scale;
    return NewPacked(source).ok();
  };
  EXPECT_TRUE(packs({DType::kF8E4M3, 16, 100, 128, DType::kF32}));
  EXPECT_FALSE(packs({DType::kF8E4M3, 16, 100, 64, DType::kF32}));
  EXPECT_FALSE(packs({DType::kF8E4M3, 16, 128, 128, DType::kF16}));
  EXPECT_FALSE(packs({DType::kI4x8, 16, 100, 32}));
  EXPECT_FALSE(packs({DType::kI4x8, 16, 96, 16}));
  EXPECT_FALSE(packs({DType::kI8x4, 16, 100, 32}));
  EXPECT_FALSE(packs({DType::kI8x4, 16, 96, 32, DType::kF32}));
  const RowSource without{.dtype = tensor::DType::kF8E4M3, .rows = 16, .cols = 128};
  EXPECT_FALSE(NewPacked(without).ok());
}

}  // namespace
}  // namespace halfmoon::kernels
