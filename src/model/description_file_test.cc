// SPDX-License-Identifier: Apache-2.0
#include "model/description_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace halfmoon::model {
namespace {

using testing::HasSubstr;

constexpr std::string_view kConfig = R"({
  "model_type": "new_moe", "hidden_size": 64, "vocab_size": 100, "intermediate_size": 128,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "partial_rotary_factor": 0.5, "n_routed": 8, "per_token": 2, "width": 32, "with_bias": true
})";

Result<ModelDescription> DescribeWith(const std::string& text, std::string_view config = kConfig) {
  return DescribeByText(text, json::ParseObject(config).value());
}

std::string File(const std::string& attention, const std::string& ffn,
                 const std::string& more = "") {
  return R"({"halfmoon_description": 1, "model_type": "new_moe", "attention": {)" + attention +
         R"(}, "ffn": {)" + ffn + "}" + more + "}";
}

constexpr const char* kMixture =
    R"("kind": "mixture", "experts": "$n_routed", "experts_per_token": "$per_token",
       "expert_width": "$width")";

TEST(DescribeByText, KnownParts_FillTheDescription) {
  const Result<ModelDescription> model = DescribeWith(File(
      R"("kind": "grouped", "qkv_bias": "$with_bias",
         "qk_norm": {"if": "$with_bias", "then": "per_head", "else": "none"})",
      std::string(kMixture) +
          R"(, "score": "sigmoid", "choice_bias": true, "shared_width": {"product": [2, "$width"]},
             "first_dense_layers": {"config": "absent", "default": 1}, "weight_scale": 2.5)",
      R"(, "mtp_layers": 1, "tensors": {"router": "layer{L}.router"})"));
  ASSERT_TRUE(model.ok()) << model.error().message();
  EXPECT_EQ(model->family, "new_moe");
  EXPECT_TRUE(model->attention.qkv_bias);
  EXPECT_FALSE(model->attention.output_bias);
  EXPECT_EQ(model->attention.qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(model->attention.rope.rotary_dim, 8);
  EXPECT_EQ(model->moe.num_experts, 8);
  EXPECT_EQ(model->moe.top_k, 2);
  EXPECT_EQ(model->moe.shared_dim, 64);
  EXPECT_EQ(model->moe.score, ExpertScore::kSigmoid);
  EXPECT_FLOAT_EQ(model->moe.weight_scale, 2.5f);
  EXPECT_EQ(model->layers[0].ffn, FfnKind::kDense);
  EXPECT_EQ(model->layers[1].ffn, FfnKind::kMoe);
  EXPECT_EQ(model->num_mtp_layers, 1);
  EXPECT_EQ(model->names.router, "layer{L}.router");
}

TEST(DescribeByText, LayerPatterns_ComeFromListsOfTheConfig) {
  std::string config(kConfig);
  config.insert(config.rfind('}'),
                R"(, "layer_types": ["sliding", "full", "sliding"], "is_moe": [0, 1, 1])");
  const Result<ModelDescription> model = DescribeWith(
      File(
          R"("sliding_window": 7, "sliding_window_layers": {"equal": ["$layer_types", "sliding"]})",
          std::string(kMixture) + R"(, "mixture_layers": "$is_moe")"),
      config);
  ASSERT_TRUE(model.ok()) << model.error().message();
  EXPECT_EQ(model->layers[0].sliding_window, 7);
  EXPECT_EQ(model->layers[1].sliding_window, 0);
  EXPECT_EQ(model->layers[2].sliding_window, 7);
  EXPECT_EQ(model->layers[0].ffn, FfnKind::kDense);
  EXPECT_EQ(model->layers[1].ffn, FfnKind::kMoe);
  EXPECT_EQ(model->layers[2].ffn, FfnKind::kMoe);
}

struct BadFile {
  const char* what;
  std::string text;
  std::vector<std::string> message;
};

TEST(DescribeByText, BadFiles_ErrorNamesThePart) {
  const std::vector<BadFile> cases = {
      {"not JSON", "{", {"byte"}},
      {"no version", "{}", {"halfmoon_description"}},
      {"other model",
       R"({"halfmoon_description": 1, "model_type": "llama"})",
       {"'llama'", "'new_moe'"}},
      {"unknown section", File("", "", R"(, "memory": {})"), {"unknown part 'memory'"}},
      {"unknown kind",
       File(R"("kind": "linear")", ""),
       {"attention.kind", "unknown part \"linear\"", "grouped, latent"}},
      {"unknown field", File(R"("sinks": true)", ""), {"attention", "unknown part 'sinks'"}},
      {"unknown score",
       File("", std::string(kMixture) + R"(, "score": "sparsemax")"),
       {"ffn.score", "sparsemax"}},
      {"config key",
       File("", R"("kind": "mixture", "experts": "$experts")"),
       {"ffn.experts", "config.json has no 'experts'"}},
      {"missing field", File("", R"("kind": "mixture")"), {"ffn.experts", "missing"}},
      {"wrong type", File(R"("qkv_bias": 3)", ""), {"attention.qkv_bias", "true or false"}},
      {"out of range", File("", R"("kind": "mixture", "experts": 0)"), {"ffn.experts", "from 1"}},
      {"huge product",
       File("", std::string(kMixture) + R"(, "shared_width": {"product": [1048576, 1048576, 8]})"),
       {"ffn.shared_width"}},
      {"layers too few",
       File(R"("sliding_window_layers": [true])", ""),
       {"attention.sliding_window_layers", "a list of 3 flags"}},
      {"layers no flags",
       File("", std::string(kMixture) + R"(, "mixture_layers": [0, 1, 2])"),
       {"ffn.mixture_layers", "one a layer"}},
      {"groups", File("", std::string(kMixture) + R"(, "groups": 3)"), {"3 groups"}},
      {"tensor", File("", "", R"(, "tensors": {"gate2": "x"})"), {"unknown part 'gate2'"}},
      {"form", File(R"("qkv_bias": {"not": true})", ""), {"attention.qkv_bias", "unknown form"}},
      {"indexer", File(R"("index_heads": 4)", ""), {"index_heads"}},
  };
  for (const BadFile& bad : cases) {
    const Result<ModelDescription> model = DescribeWith(bad.text);
    ASSERT_FALSE(model.ok()) << bad.what;
    for (const std::string& part : bad.message) {
      EXPECT_THAT(model.error().message(), HasSubstr(part)) << bad.what;
    }
  }
}

}  // namespace
}  // namespace halfmoon::model
