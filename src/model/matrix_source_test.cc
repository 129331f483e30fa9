// SPDX-License-Identifier: Apache-2.0
#include "model/matrix_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace halfmoon::model {
namespace {

using tensor::DType;
using testing::HasSubstr;

/// One matrix and nothing else.
class OneMatrix final : public checkpoint::Checkpoint {
 public:
  explicit OneMatrix(checkpoint::StoredTensor stored) : stored_(std::move(stored)) {}
  std::string_view format() const override { return "test"; }
  const std::filesystem::path& path() const override { return path_; }
  const json::object& config() const override { return config_; }
  const checkpoint::StoredTensor* Find(std::string_view name) const override {
    return name == "a.weight" ? &stored_ : nullptr;
  }
  std::vector<std::string> Names() const override { return {"a.weight"}; }
  const checkpoint::GgufVocabulary* gguf_vocabulary() const override { return nullptr; }
  std::string_view chat_template() const override { return ""; }
  size_t size_bytes() const override { return stored_.view.bytes.size(); }
  std::string fingerprint() const override { return ""; }
  void Prefetch() const override {}

 private:
  checkpoint::StoredTensor stored_;
  std::filesystem::path path_;
  json::object config_;
};

/// F8_E4M3 [130, 3] with blocks of 128 x 128: every value 1, scales 2 and 3.
struct Fp8 {
  std::vector<uint8_t> values = std::vector<uint8_t>(130 * 3, 0x38);
  std::vector<float> scales = {2.0f, 3.0f};

  OneMatrix Checkpoint() const {
    return OneMatrix(
        {.view = {.dtype = DType::kF8E4M3,
                  .shape = {130, 3},
                  .bytes = std::as_bytes(std::span(values))},
         .scales = checkpoint::StoredScales{.name = "a.weight_scale_inv",
                                            .view = {.dtype = DType::kF32,
                                                     .shape = {2, 1},
                                                     .bytes = std::as_bytes(std::span(scales))},
                                            .block_rows = 128,
                                            .block_cols = 128}});
  }
};

TEST(MatrixSource, Fp8Rows_TakeTheScaleOfTheirBlock) {
  Fp8 data;
  data.values[3 * 129 + 1] = 0xBC;  // -1.5
  const OneMatrix checkpoint = data.Checkpoint();
  const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 130, 3);
  ASSERT_TRUE(source.ok()) << source.error().message();
  std::vector<float> row(3);
  ASSERT_TRUE(source->DecodeRow(127, row).ok());
  EXPECT_EQ(row, (std::vector<float>{2, 2, 2}));
  ASSERT_TRUE(source->DecodeRow(129, row).ok());
  EXPECT_EQ(row, (std::vector<float>{3, -4.5f, 3}));
  EXPECT_TRUE(source->packs());
  const kernels::RowSource gathered = source->Gather({129, 0});
  EXPECT_EQ(gathered.rows, 2);
  float scale = 0.0f;
  std::memcpy(&scale, gathered.scales(0), 4);
  EXPECT_EQ(scale, 3.0f);
}

TEST(MatrixSource, Fp8NotANumber_ErrorNamesThePlace) {
  Fp8 data;
  data.values[3 * 5 + 2] = 0xFF;
  const OneMatrix checkpoint = data.Checkpoint();
  const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 130, 3);
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE(source->CheckRow(4).ok());
  const Status bad = source->CheckRow(5);
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().message(), HasSubstr("'a.weight': value [5, 2] is not a number"));
}

TEST(MatrixSource, ScalesNotFinite_ErrorNamesTheScale) {
  for (const float scale :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e35f}) {
    Fp8 data;
    data.scales[1] = scale;
    const OneMatrix checkpoint = data.Checkpoint();
    const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 130, 3);
    ASSERT_FALSE(source.ok());
    EXPECT_THAT(source.error().message(), HasSubstr("'a.weight_scale_inv': scale [1, 0]"));
  }
}

TEST(MatrixSource, MissingOrMisshapen_ErrorNamesExpectedAndFound) {
  const Fp8 data;
  const OneMatrix checkpoint = data.Checkpoint();
  const Result<MatrixSource> missing = MatrixSource::Find(checkpoint, "b.weight", 2, 2);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message(), HasSubstr("'b.weight' is missing; expected shape [2, 2]"));
  const Result<MatrixSource> misshapen = MatrixSource::Find(checkpoint, "a.weight", 3, 130);
  ASSERT_FALSE(misshapen.ok());
  EXPECT_THAT(misshapen.error().message(), HasSubstr("expected shape [3, 130], found [130, 3]"));
}

TEST(MatrixSource, Int4OddSizes_DecodeThoughTheyDoNotPack) {
  // [1, 12], groups of 32: two words, the second half used. Stored nibbles are values + 8.
  const std::vector<uint32_t> words = {0xFEDCBA98u, 0x00003210u};
  const std::vector<uint16_t> scales = {0x3F00};  // 0.5
  const OneMatrix checkpoint(
      {.view = {.dtype = DType::kI4x8, .shape = {1, 12}, .bytes = std::as_bytes(std::span(words))},
       .scales = checkpoint::StoredScales{.name = "a.weight_scale",
                                          .view = {.dtype = DType::kBF16,
                                                   .shape = {1, 1},
                                                   .bytes = std::as_bytes(std::span(scales))},
                                          .block_rows = 1,
                                          .block_cols = 32}});
  const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 1, 12);
  ASSERT_TRUE(source.ok()) << source.error().message();
  EXPECT_FALSE(source->packs());
  std::vector<float> row(12);
  ASSERT_TRUE(source->DecodeRow(0, row).ok());
  EXPECT_EQ(row, (std::vector<float>{0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f, -4, -3.5f, -3, -2.5f}));
}

TEST(MatrixSource, Fp8ScalesAsExponents_DecodeAndPack) {
  const Fp8 data;
  const std::vector<uint8_t> scales = {128, 126};  // 2 and 0.5
  checkpoint::StoredTensor stored = *data.Checkpoint().Find("a.weight");
  stored.scales->view = {
      .dtype = DType::kF8E8M0, .shape = {2, 1}, .bytes = std::as_bytes(std::span(scales))};
  const OneMatrix checkpoint(stored);
  const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 130, 3);
  ASSERT_TRUE(source.ok()) << source.error().message();
  EXPECT_TRUE(source->packs());
  EXPECT_EQ(source->Gather({0}).scale_dtype, DType::kF8E8M0);
  std::vector<float> row(3);
  ASSERT_TRUE(source->DecodeRow(129, row).ok());
  EXPECT_EQ(row, (std::vector<float>{0.5f, 0.5f, 0.5f}));
}

TEST(MatrixSource, Fp8ExponentThatIsNoNumber_ErrorNamesTheScale) {
  const Fp8 data;
  const std::vector<uint8_t> scales = {128, 255};
  checkpoint::StoredTensor stored = *data.Checkpoint().Find("a.weight");
  stored.scales->view = {
      .dtype = DType::kF8E8M0, .shape = {2, 1}, .bytes = std::as_bytes(std::span(scales))};
  const OneMatrix checkpoint(stored);
  const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 130, 3);
  ASSERT_FALSE(source.ok());
  EXPECT_THAT(source.error().message(), HasSubstr("'a.weight_scale_inv': scale [1, 0]"));
}

TEST(MatrixSource, BlockScaleNotFinite_ErrorNamesTheBlock) {
  std::vector<uint8_t> values(2 * 2 * 34, 1);  // Q8_0 [2, 64]
  const auto open = [&] {
    return OneMatrix(
        {.view = {
             .dtype = DType::kQ8_0, .shape = {2, 64}, .bytes = std::as_bytes(std::span(values))}});
  };
  const OneMatrix right = open();
  const Result<MatrixSource> source = MatrixSource::Find(right, "a.weight", 2, 64);
  ASSERT_TRUE(source.ok()) << source.error().message();
  EXPECT_TRUE(source->needs_check());
  EXPECT_TRUE(source->CheckRow(1).ok());
  values[3 * 34 + 1] = 0x7C;  // float16 NaN
  const Status bad = source->CheckRow(1);
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().message(), HasSubstr("'a.weight': scale of block [1, 1]"));
  std::vector<float> row(64);
  EXPECT_TRUE(source->DecodeRow(0, row).ok());
  EXPECT_FALSE(source->DecodeRow(1, row).ok());
}

TEST(MatrixSource, Int8Groups_DecodeWhateverTheScalesAre) {
  std::vector<uint8_t> values(64, 129);
  values[0] = 0;
  values[63] = 255;
  const auto with = [&](DType dtype, std::span<const std::byte> scales) {
    return checkpoint::StoredTensor{.view = {.dtype = DType::kI8x4,
                                             .shape = {1, 64},
                                             .bytes = std::as_bytes(std::span(values))},
                                    .scales = checkpoint::StoredScales{
                                        .name = "a.weight_scale",
                                        .view = {.dtype = dtype, .shape = {1, 2}, .bytes = scales},
                                        .block_rows = 1,
                                        .block_cols = 32}};
  };
  const std::vector<uint16_t> halves = {0x3C00, 0x4000};  // float16 1 and 2
  const std::vector<float> floats = {1.0f, 2.0f};
  for (const bool wide : {false, true}) {
    const OneMatrix checkpoint(wide ? with(DType::kF32, std::as_bytes(std::span(floats)))
                                    : with(DType::kF16, std::as_bytes(std::span(halves))));
    const Result<MatrixSource> source = MatrixSource::Find(checkpoint, "a.weight", 1, 64);
    ASSERT_TRUE(source.ok()) << source.error().message();
    EXPECT_EQ(source->packs(), !wide);
    std::vector<float> row(64);
    ASSERT_TRUE(source->DecodeRow(0, row).ok());
    EXPECT_EQ(row[0], -128.0f);
    EXPECT_EQ(row[1], 1.0f);
    EXPECT_EQ(row[32], 2.0f);
    EXPECT_EQ(row[63], 254.0f);
  }
}

}  // namespace
}  // namespace halfmoon::model
