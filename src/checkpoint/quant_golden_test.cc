// SPDX-License-Identifier: Apache-2.0
// The block formats against what the PyPI package gguf makes of the same bytes
// (tests/golden/make_quant.py). It lies here because the goldens are safetensors files, which quant
// knows nothing of.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "quant/quant.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;

constexpr DType kTypes[] = {
    DType::kF16,    DType::kBF16,   DType::kQ4_0,  DType::kQ4_1,  DType::kQ5_0, DType::kQ5_1,
    DType::kQ8_0,   DType::kQ4_K,   DType::kQ5_K,  DType::kQ6_K,  DType::kQ2_K, DType::kQ3_K,
    DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4, DType::kTQ1_0, DType::kTQ2_0};

SafetensorsFile OpenGolden(DType dtype) {
  const std::string name(tensor::Info(dtype).name);
  auto file = SafetensorsFile::Open(std::filesystem::path(HALFMOON_GOLDEN_DIR) / "quant" /
                                    (name + ".safetensors"));
  HM_CHECK(file.ok(), file.error().message());
  return std::move(file).value();
}

std::vector<float> Floats(const tensor::TensorView& view) {
  std::vector<float> values(view.bytes.size() / sizeof(float));
  std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

TEST(DecodeRow, RandomBlocks_EqualReferenceBitForBit) {
  for (const DType dtype : kTypes) {
    const SafetensorsFile file = OpenGolden(dtype);
    const std::vector<float> expected = Floats(*file.Find("decoded"));
    std::vector<float> decoded(expected.size());
    const Status status = quant::DecodeRow(dtype, file.Find("blocks")->bytes.data(),
                                           static_cast<int64_t>(expected.size()), decoded.data());
    ASSERT_TRUE(status.ok()) << status.error().message();
    EXPECT_EQ(std::memcmp(decoded.data(), expected.data(), expected.size() * sizeof(float)), 0)
        << tensor::Info(dtype).name;
  }
}

TEST(EncodeRow, ValuesOfOneScaleFormats_EqualReferenceBitForBit) {
  int formats = 0;
  for (const DType dtype : kTypes) {
    const SafetensorsFile file = OpenGolden(dtype);
    if (file.Find("values") == nullptr) continue;
    const std::vector<float> values = Floats(*file.Find("values"));
    const auto expected = file.Find("encoded")->bytes;
    std::vector<std::byte> encoded(expected.size());
    ASSERT_TRUE(
        quant::EncodeRow(dtype, values.data(), static_cast<int64_t>(values.size()), encoded.data())
            .ok());
    EXPECT_EQ(std::memcmp(encoded.data(), expected.data(), expected.size()), 0)
        << tensor::Info(dtype).name;
    ++formats;
  }
  EXPECT_EQ(formats, 7);
}

}  // namespace
}  // namespace halfmoon::checkpoint
