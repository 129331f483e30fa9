// SPDX-License-Identifier: Apache-2.0
#include "quant/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "quant/pack.h"
#include "quant/unpack.h"

namespace halfmoon::quant {
namespace {

using tensor::DType;

constexpr DType kBlockTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                 DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

std::vector<float> Gaussian(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

std::vector<std::byte> Encode(DType dtype, const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(*tensor::SizeBytes(dtype, {n}));
  EXPECT_TRUE(EncodeRow(dtype, values.data(), n, bytes.data()).ok());
  return bytes;
}

double RelativeError(DType dtype, const std::vector<float>& values) {
  const std::vector<std::byte> bytes = Encode(dtype, values);
  std::vector<float> decoded(values.size());
  EXPECT_TRUE(
      DecodeRow(dtype, bytes.data(), static_cast<int64_t>(values.size()), decoded.data()).ok());
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(decoded[i]) - values[i], 2);
    norm += std::pow(static_cast<double>(values[i]), 2);
  }
  return std::sqrt(error / norm);
}

// The error table: relative RMS error on Gaussian weights. Bounds are 3 % around what was measured:
// far below would mean that the test measures something else.
TEST(Encode, GaussianRow_ErrorWithinTable) {
  struct Row {
    DType dtype;
    double measured;
  };
  constexpr Row kTable[] = {
      {DType::kF16, 0.000206}, {DType::kBF16, 0.00166}, {DType::kQ8_0, 0.00537},
      {DType::kQ6_K, 0.01735}, {DType::kQ5_K, 0.0358},  {DType::kQ5_1, 0.0379},
      {DType::kQ5_0, 0.0428},  {DType::kQ4_K, 0.0714},  {DType::kQ4_1, 0.0783},
      {DType::kQ4_0, 0.0863},
  };
  const std::vector<float> values = Gaussian(256 * 512, 3);
  for (const Row& row : kTable) {
    const double error = RelativeError(row.dtype, values);
    EXPECT_LT(error, row.measured * 1.03) << tensor::Info(row.dtype).name;
    EXPECT_GT(error, row.measured * 0.97) << tensor::Info(row.dtype).name;
  }
  EXPECT_EQ(RelativeError(DType::kF32, values), 0.0);
}

TEST(Encode, SpecialRows_DecodeExactly) {
  for (const DType dtype : kBlockTypes) {
    for (const float constant : {0.0f, 1.0f, -0.5f}) {
      const std::vector<float> values(256, constant);
      EXPECT_LT(constant == 0 ? 0.0 : RelativeError(dtype, values), 1e-3)
          << tensor::Info(dtype).name << " " << constant;
      std::vector<float> decoded(256, 7.0f);
      ASSERT_TRUE(DecodeRow(dtype, Encode(dtype, values).data(), 256, decoded.data()).ok());
      for (const float v : decoded) EXPECT_NEAR(v, constant, 1e-3) << tensor::Info(dtype).name;
    }
  }
}

TEST(Encode, NonFiniteAndExtremeValues_StayInBounds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : kBlockTypes) {
    for (const float odd : {kInfinity, -kInfinity, std::nanf(""), std::numeric_limits<float>::max(),
                            -3e38f, std::numeric_limits<float>::denorm_min()}) {
      std::vector<float> values = Gaussian(256, 5);
      values[17] = odd;
      const std::vector<std::byte> bytes = Encode(dtype, values);
      EXPECT_EQ(bytes.size() % static_cast<size_t>(tensor::Info(dtype).block_bytes), 0u);
    }
  }
}

TEST(Unpack, RandomBits_PackBackUnchanged) {
  std::mt19937 random(9);
  for (const DType dtype : kBlockTypes) {
    const QuantTraits* traits = TraitsOf(dtype);
    ASSERT_NE(traits, nullptr);
    EXPECT_EQ(traits->super, tensor::Info(dtype).block_elements);
    const auto size = static_cast<size_t>(tensor::Info(dtype).block_bytes);
    for (int round = 0; round < 50; ++round) {
      // One byte off, because blocks in files have no alignment.
      std::vector<std::byte> block(size + 1), again(size + 1);
      for (std::byte& b : block) b = static_cast<std::byte>(random());
      UnpackedBlock unpacked;
      UnpackBlock(dtype, block.data() + 1, &unpacked);
      for (int i = 0; i < traits->super; ++i) EXPECT_LT(unpacked.q[i], 1 << traits->bits);
      PackBlock(dtype, unpacked, again.data() + 1);
      EXPECT_EQ(std::memcmp(block.data() + 1, again.data() + 1, size), 0)
          << tensor::Info(dtype).name;
    }
  }
}

TEST(FindBadScale, EveryFormat_FindsTheBlockAndNoOther) {
  struct Row {
    DType dtype;
    std::vector<size_t> scales;
  };
  const std::vector<Row> rows = {
      {DType::kQ4_0, {0}},    {DType::kQ4_1, {0, 2}}, {DType::kQ5_0, {0}},
      {DType::kQ5_1, {0, 2}}, {DType::kQ8_0, {0}},    {DType::kQ4_K, {0, 2}},
      {DType::kQ5_K, {0, 2}}, {DType::kQ6_K, {208}},  {DType::kQ2_K, {80, 82}},
      {DType::kQ3_K, {108}},  {DType::kIQ4_NL, {0}},  {DType::kIQ4_XS, {0}},
      {DType::kTQ1_0, {52}},  {DType::kTQ2_0, {64}},  {DType::kMXFP4, {}},
  };
  for (const Row& row : rows) {
    const tensor::DTypeInfo& info = tensor::Info(row.dtype);
    const auto block_bytes = static_cast<size_t>(info.block_bytes);
    const int64_t n = 3 * info.block_elements;
    const std::vector<std::byte> clean(3 * block_bytes, std::byte{0x3C});
    EXPECT_EQ(FindBadScale(row.dtype, clean.data(), n), std::nullopt) << info.name;
    for (const size_t offset : row.scales) {
      std::vector<std::byte> bytes = clean;
      bytes[2 * block_bytes + offset + 1] = std::byte{0xFC};
      EXPECT_EQ(FindBadScale(row.dtype, bytes.data(), n), 2) << info.name << " " << offset;
    }
    std::vector<std::byte> bytes(3 * block_bytes, std::byte{0xFF});
    EXPECT_EQ(FindBadScale(row.dtype, bytes.data(), n), 0) << info.name;
  }
  EXPECT_EQ(FindBadScale(DType::kF32, nullptr, 64), std::nullopt);
}

TEST(Encode, TypesThatAreReadOnly_Unsupported) {
  std::vector<float> values(256);
  std::vector<std::byte> bytes(256);
  for (const DType dtype : {DType::kQ2_K, DType::kQ3_K, DType::kIQ4_NL, DType::kIQ4_XS,
                            DType::kMXFP4, DType::kTQ1_0, DType::kTQ2_0}) {
    EXPECT_TRUE(IsQuantized(dtype));
    EXPECT_FALSE(CanEncode(dtype));
    const Status status = EncodeRow(dtype, values.data(), 256, bytes.data());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), ErrorCode::kUnsupported);
  }
}

TEST(Unpack, PlainTypes_HaveNoTraits) {
  EXPECT_EQ(TraitsOf(DType::kBF16), nullptr);
  EXPECT_FALSE(IsQuantized(DType::kF32));
  EXPECT_TRUE(IsQuantized(DType::kQ5_K));
}

TEST(Decode, PartialBlock_IsInvalid) {
  std::vector<std::byte> bytes(64);
  std::vector<float> out(64);
  const Status partial = DecodeRow(DType::kQ8_0, bytes.data(), 33, out.data());
  ASSERT_FALSE(partial.ok());
  EXPECT_EQ(partial.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(partial.error().message().find("Q8_0"), std::string::npos);
  EXPECT_EQ(DecodeRow(DType::kF32, bytes.data(), -1, out.data()).error().code(),
            ErrorCode::kInvalidArgument);
  EXPECT_TRUE(DecodeRow(DType::kQ8_0, nullptr, 0, nullptr).ok());
}

TEST(Decode, TypeThatIsNoWeightFormat_IsUnsupported) {
  std::vector<std::byte> bytes(64);
  std::vector<float> out(64);
  EXPECT_EQ(DecodeRow(DType::kI32, bytes.data(), 4, out.data()).error().code(),
            ErrorCode::kUnsupported);
  EXPECT_EQ(EncodeRow(DType::kBool, out.data(), 4, bytes.data()).error().code(),
            ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace halfmoon::quant
