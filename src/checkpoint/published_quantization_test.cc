// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/published_quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using testing::HasSubstr;

/// A map of tensors over bytes of its own.
class Tensors {
 public:
  void Add(const std::string& name, DType dtype, const Shape& shape, size_t size_bytes) {
    bytes_.push_back(std::make_unique<std::vector<std::byte>>(size_bytes));
    map[name] = {.view = {.dtype = dtype, .shape = shape, .bytes = *bytes_.back()}};
  }
  template <typename T>
  void Set(const std::string& name, const std::vector<T>& values) {
    Add(name, sizeof(T) == 8 ? DType::kI64 : DType::kI32,
        Shape{static_cast<int64_t>(values.size())}, values.size() * sizeof(T));
    std::memcpy(bytes_.back()->data(), values.data(), values.size() * sizeof(T));
  }

  TensorMap map;

 private:
  std::vector<std::unique_ptr<std::vector<std::byte>>> bytes_;
};

json::object Config(std::string_view quantization) {
  return json::ParseObject(R"({"quantization_config": )" + std::string(quantization) + "}").value();
}

constexpr std::string_view kFp8 =
    R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})";
constexpr std::string_view kInt4 =
    R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": true,
                                 "strategy": "group", "group_size": 32}}}})";

Tensors Fp8Tensors() {
  Tensors tensors;
  tensors.Add("a.weight", DType::kF8E4M3, {200, 130}, 26000);
  tensors.Add("a.weight_scale_inv", DType::kF32, {2, 2}, 16);
  tensors.Add("norm.weight", DType::kBF16, {4}, 8);
  return tensors;
}

Tensors Int4Tensors() {
  Tensors tensors;
  tensors.Add("a.weight_packed", DType::kI32, {3, 12}, 144);
  tensors.Add("a.weight_scale", DType::kBF16, {3, 3}, 18);
  tensors.Set<int32_t>("a.weight_shape", {3, 96});
  return tensors;
}

TEST(JoinScales, Fp8_OneTensorWithItsScales) {
  Tensors tensors = Fp8Tensors();
  const Status joined = JoinScales(Config(kFp8), &tensors.map);
  ASSERT_TRUE(joined.ok()) << joined.error().message();
  EXPECT_EQ(tensors.map.size(), 2u);
  const StoredTensor& weight = tensors.map.at("a.weight");
  ASSERT_TRUE(weight.scales.has_value());
  EXPECT_EQ(weight.scales->block_rows, 128);
  EXPECT_EQ(weight.scales->view.shape, (Shape{2, 2}));
  EXPECT_FALSE(tensors.map.at("norm.weight").scales.has_value());
}

TEST(JoinScales, Int4_OneTensorOfTheLogicalShape) {
  for (const bool wide : {false, true}) {
    Tensors tensors = Int4Tensors();
    if (wide) tensors.Set<int64_t>("a.weight_shape", {3, 96});
    const Status joined = JoinScales(Config(kInt4), &tensors.map);
    ASSERT_TRUE(joined.ok()) << joined.error().message();
    EXPECT_EQ(tensors.map.size(), 1u);
    const StoredTensor& weight = tensors.map.at("a.weight");
    EXPECT_EQ(weight.view.dtype, DType::kI4x8);
    EXPECT_EQ(weight.view.shape, (Shape{3, 96}));
    EXPECT_EQ(weight.scales->block_cols, 32);
  }
}

TEST(JoinScales, Int8_OneTensorOfTheLogicalShape) {
  Tensors tensors;
  tensors.Add("a.weight_packed", DType::kI32, {3, 24}, 288);
  tensors.Add("a.weight_scale", DType::kF16, {3, 3}, 18);
  tensors.Set<int32_t>("a.weight_shape", {3, 96});
  std::string config(kInt4);
  config.replace(config.find("\"num_bits\": 4"), 13, "\"num_bits\": 8");
  const Status joined = JoinScales(Config(config), &tensors.map);
  ASSERT_TRUE(joined.ok()) << joined.error().message();
  EXPECT_EQ(tensors.map.at("a.weight").view.dtype, DType::kI8x4);
  EXPECT_EQ(tensors.map.at("a.weight").view.shape, (Shape{3, 96}));
}

TEST(JoinScales, NoQuantization_LeavesTensorsAlone) {
  Tensors tensors;
  tensors.Add("a.weight", DType::kBF16, {2, 2}, 8);
  EXPECT_TRUE(JoinScales({}, &tensors.map).ok());
  EXPECT_EQ(tensors.map.size(), 1u);
}

struct Bad {
  const char* what;
  std::function<void(Tensors*)> damage;
  std::string config;
  std::string message;
};

TEST(JoinScales, BadCheckpoints_ErrorNamesTensorExpectedAndFound) {
  const auto nothing = [](Tensors*) {};
  const std::vector<Bad> cases = {
      {"missing scales", [](Tensors* t) { t->map.erase("a.weight_scale_inv"); }, std::string(kFp8),
       "'a.weight': expected scales 'a.weight_scale_inv'"},
      {"missing weight", [](Tensors* t) { t->map.erase("a.weight"); }, std::string(kFp8),
       "'a.weight_scale_inv' has no 'a.weight'"},
      {"scale shape", [](Tensors* t) { t->Add("a.weight_scale_inv", DType::kF32, {2, 3}, 24); },
       std::string(kFp8),
       "'a.weight_scale_inv': expected F32, BF16 or F8_E8M0 [2, 2], found F32 [2, 3]"},
      {"scale type", [](Tensors* t) { t->Add("a.weight_scale_inv", DType::kF16, {2, 2}, 8); },
       std::string(kFp8), "expected F32, BF16 or F8_E8M0 [2, 2], found F16 [2, 2]"},
      {"weight type", [](Tensors* t) { t->Add("a.weight", DType::kI8, {200, 130}, 26000); },
       std::string(kFp8), "'a.weight': expected a matrix of F8_E4M3"},
      {"method", nothing, R"({"quant_method": "awq"})", "quant_method 'awq'"},
      {"no method", nothing, R"({})", "quant_method"},
      {"format of fp8", nothing, R"({"quant_method": "fp8", "fmt": "e5m2"})", "fmt 'e5m2'"},
      {"no blocks", nothing, R"({"quant_method": "fp8"})", "weight_block_size is missing"},
      {"bad blocks", nothing, R"({"quant_method": "fp8", "weight_block_size": [128, 0]})",
       "two positive numbers, found [128,0]"},
  };
  for (const Bad& bad : cases) {
    Tensors tensors = Fp8Tensors();
    bad.damage(&tensors);
    const Status joined = JoinScales(Config(bad.config), &tensors.map);
    ASSERT_FALSE(joined.ok()) << bad.what;
    EXPECT_THAT(joined.error().message(), HasSubstr(bad.message)) << bad.what;
  }
}

TEST(JoinScales, BadPackedCheckpoints_ErrorNamesTensorExpectedAndFound) {
  const auto nothing = [](Tensors*) {};
  const auto with = [](std::string_view from, std::string_view to) {
    std::string config(kInt4);
    config.replace(config.find(from), from.size(), to);
    return config;
  };
  const std::vector<Bad> cases = {
      {"no scale", [](Tensors* t) { t->map.erase("a.weight_scale"); }, std::string(kInt4),
       "'a.weight_scale' is missing"},
      {"no shape", [](Tensors* t) { t->map.erase("a.weight_shape"); }, std::string(kInt4),
       "'a.weight_shape' is missing"},
      {"negative shape", [](Tensors* t) { t->Set<int32_t>("a.weight_shape", {3, -96}); },
       std::string(kInt4), "'a.weight_shape': expected two sizes, found -96"},
      {"other shape", [](Tensors* t) { t->Set<int32_t>("a.weight_shape", {3, 104}); },
       std::string(kInt4), "'a.weight_packed': expected I32 [3, 13], found I32 [3, 12]"},
      {"scale shape", [](Tensors* t) { t->Add("a.weight_scale", DType::kBF16, {3, 4}, 24); },
       std::string(kInt4), "'a.weight_scale': expected BF16, F16 or F32 [3, 3], found BF16 [3, 4]"},
      {"both", [](Tensors* t) { t->Add("a.weight", DType::kBF16, {3, 96}, 576); },
       std::string(kInt4), "are both there"},
      {"bits", nothing, with("\"num_bits\": 4", "\"num_bits\": 3"),
       "only symmetric integers of 4 or 8 bits"},
      {"group", nothing, with("32", "0"), "group_size 0"},
      {"format", nothing, with("pack-quantized", "marlin-24"), "format 'marlin-24'"},
  };
  for (const Bad& bad : cases) {
    Tensors tensors = Int4Tensors();
    bad.damage(&tensors);
    const Status joined = JoinScales(Config(bad.config), &tensors.map);
    ASSERT_FALSE(joined.ok()) << bad.what;
    EXPECT_THAT(joined.error().message(), HasSubstr(bad.message)) << bad.what;
  }
}

}  // namespace
}  // namespace halfmoon::checkpoint
