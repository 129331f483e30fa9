// SPDX-License-Identifier: Apache-2.0
// What the tests of this area share: seeded data, matrices of every stored type, comparison of
// bits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/packed_matrix.h"
#include "kernels/paged_kv.h"
#include "quant/quant.h"
#include "tensor/float16.h"
#include "tensor/tensor.h"

namespace halfmoon::kernels {

inline std::vector<float> RandomFloats(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline constexpr tensor::DType kWeightTypes[] = {
    tensor::DType::kF32,   tensor::DType::kF16,    tensor::DType::kBF16,   tensor::DType::kQ4_0,
    tensor::DType::kQ4_1,  tensor::DType::kQ5_0,   tensor::DType::kQ5_1,   tensor::DType::kQ8_0,
    tensor::DType::kQ4_K,  tensor::DType::kQ5_K,   tensor::DType::kQ6_K,   tensor::DType::kQ2_K,
    tensor::DType::kQ3_K,  tensor::DType::kIQ4_NL, tensor::DType::kIQ4_XS, tensor::DType::kMXFP4,
    tensor::DType::kTQ1_0, tensor::DType::kTQ2_0,
};

/// Where float16 scales lie in a block of `dtype`.
inline std::vector<size_t> ScaleOffsets(tensor::DType dtype) {
  switch (dtype) {
    case tensor::DType::kQ4_1:
    case tensor::DType::kQ5_1:
    case tensor::DType::kQ4_K:
    case tensor::DType::kQ5_K:
      return {0, 2};
    case tensor::DType::kQ6_K:
      return {208};
    case tensor::DType::kQ2_K:
      return {80, 82};
    case tensor::DType::kQ3_K:
      return {108};
    case tensor::DType::kTQ1_0:
      return {52};
    case tensor::DType::kTQ2_0:
      return {64};
    case tensor::DType::kMXFP4:
      return {};
    default:
      return {0};
  }
}

/// Fills `row` with random bits of a type that EncodeRow does not write. The size of values grows
/// with `scale`.
inline void FillReadOnlyRow(tensor::DType dtype, std::mt19937* random, float scale,
                            std::span<std::byte> row) {
  for (std::byte& byte : row) byte = static_cast<std::byte>((*random)());
  const auto block_bytes = static_cast<size_t>(tensor::Info(dtype).block_bytes);
  for (size_t block = 0; block < row.size(); block += block_bytes) {
    if (dtype == tensor::DType::kMXFP4) row[block] = static_cast<std::byte>(120 + (*random)() % 8);
    for (const size_t offset : ScaleOffsets(dtype)) {
      const float d = scale * 0.001f * static_cast<float>(1 + (*random)() % 100);
      const uint16_t bits = tensor::F32ToF16(d);
      std::memcpy(row.data() + block + offset, &bits, sizeof(bits));
    }
  }
}

/// A stored random matrix, its decoded values and its packed form.
struct TestMatrix {
  std::vector<std::byte> bytes;
  std::vector<float> decoded;  ///< [rows, cols]
  PackedMatrix packed;
  int64_t rows = 0;
  int64_t cols = 0;

  TestMatrix(tensor::DType dtype, int64_t num_rows, int64_t num_cols, uint32_t seed)
      : rows(num_rows), cols(num_cols) {
    const tensor::DTypeInfo& info = tensor::Info(dtype);
    const size_t row_bytes = static_cast<size_t>(cols / info.block_elements * info.block_bytes);
    bytes.resize(static_cast<size_t>(rows) * row_bytes);
    decoded = RandomFloats(static_cast<size_t>(rows * cols), seed);
    std::mt19937 random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      std::byte* row = bytes.data() + static_cast<size_t>(r) * row_bytes;
      // Rows of different size, so that a scale taken from another row shows.
      for (int64_t k = 0; k < cols; ++k) decoded[static_cast<size_t>(r * cols + k)] *= 1.0f + r % 5;
      float* values = decoded.data() + r * cols;
      if (quant::CanEncode(dtype)) {
        EXPECT_TRUE(quant::EncodeRow(dtype, values, cols, row).ok());
      } else {
        FillReadOnlyRow(dtype, &random, 1.0f + static_cast<float>(r % 5), {row, row_bytes});
      }
      EXPECT_TRUE(quant::DecodeRow(dtype, row, cols, values).ok());
    }
    RowSource source;
    source.dtype = dtype;
    source.rows = rows;
    source.cols = cols;
    source.row = [&](int64_t r) { return bytes.data() + static_cast<size_t>(r) * row_bytes; };
    Result<PackedMatrix> result = Pack(source);
    EXPECT_TRUE(result.ok());
    packed = std::move(result).value();
  }
};

/// Activations [rows, k] in int8 form with their memory.
struct TestQuantized {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum16;
  QuantizedRows rows;

  TestQuantized(const Stream& stream, const std::vector<float>& x, int64_t num_rows, int64_t k) {
    const int64_t groups = (k + kGroup - 1) / kGroup;
    q.resize(static_cast<size_t>(num_rows * groups * kGroup));
    scale.resize(static_cast<size_t>(num_rows * groups));
    sum16.resize(static_cast<size_t>(num_rows * groups * 2));
    QuantizeRows(stream, x.data(), k, num_rows, k, {q.data(), scale.data(), sum16.data()});
    rows = {q.data(), scale.data(), sum16.data(), groups};
  }
};

/// Numbers below the normal ones as zero of their sign, as vdpbf16ps takes and leaves them.
inline float Flush(float value) {
  return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

/// The nearest bfloat16 of what is not subnormal.
inline float RoundedToBf16(float value) {
  return tensor::BF16ToF32(tensor::F32ToBF16(Flush(value)));
}

/// Activations [rows, k] in bfloat16, as RoundRows gives them, with their memory. NaN beyond a row.
struct TestBf16 {
  std::vector<uint16_t> values;
  Bf16Rows rows;

  TestBf16(const Stream& stream, const std::vector<float>& x, int64_t num_rows, int64_t k) {
    const int64_t stride = k + k % 2 + 2;
    values.assign(static_cast<size_t>(num_rows * stride), 0x7FC0);
    RoundRows(stream, x.data(), k, num_rows, k, values.data(), stride);
    rows = {values.data(), stride};
  }
};

/// A lane of vdpbf16ps: a[1] b[1] and then a[0] b[0] added to acc.
inline float AddPair(float acc, const float a[2], const float b[2]) {
  acc = Flush(std::fma(Flush(a[1]), Flush(b[1]), acc));
  return Flush(std::fma(Flush(a[0]), Flush(b[0]), acc));
}

/// Bound of the error of attention on pairs of bfloat16, norm by norm, with queries and keys of
/// `dim` values that deviate by 1. Roundings err by at most 2^-8, 0.0016 root mean square. A weight
/// has its own and, through its score, those of the query: 0.0016 of what scores deviate by.
inline double Bf16AttentionError(double scale, int dim) {
  return 0.0016 * (1.0 + 1.5 * scale * std::sqrt(dim));
}

/// `values`, rows of `dim` each, as a page of that type gives them back.
inline std::vector<float> StoredKv(KvType type, std::vector<float> values, int dim) {
  if (type == KvType::kF16) {
    for (float& value : values) value = tensor::F16ToF32(tensor::F32ToF16(value));
  }
  if (type == KvType::kBF16) {
    for (float& value : values) value = tensor::BF16ToF32(tensor::F32ToBF16(value));
  }
  if (type != KvType::kQ8_0) return values;
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(dim)) {
    for (int begin = 0; begin < dim; begin += kKvGroup) {
      float* group = values.data() + row + begin;
      const int count = std::min(kKvGroup, dim - begin);
      float max = 0.0f;
      for (int i = 0; i < count; ++i) max = std::max(max, std::abs(group[i]));
      const float scale = tensor::F16ToF32(tensor::F32ToF16(max / 127.0f));
      for (int i = 0; i < count; ++i) {
        const float q = scale > 0 ? std::nearbyint(group[i] * (1.0f / scale)) : 0.0f;
        group[i] = std::clamp(q, -127.0f, 127.0f) * scale;
      }
    }
  }
  return values;
}

/// Equal bit for bit; any NaN equals any NaN, because payloads are nobody's promise.
inline ::testing::AssertionResult SameBits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " and " << b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << ": " << a[i] << " and " << b[i] << ", bits "
             << std::bit_cast<uint32_t>(a[i]) << " and " << std::bit_cast<uint32_t>(b[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace halfmoon::kernels
