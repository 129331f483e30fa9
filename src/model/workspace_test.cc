// SPDX-License-Identifier: Apache-2.0
// The bytes a token takes in KV pages, for published models, against the formulas and examples of
// docs/formats/kv_page.md; which activations a product takes.
#include "model/workspace.h"

#include <gtest/gtest.h>

#include <string>

#include "base/json.h"
#include "model/arch/registry.h"

namespace halfmoon::model {
namespace {

/// config.json of DeepSeek V3, V3.2 and Kimi K2 as far as sizes of attention go; experts are few.
std::string LatentConfig(const std::string& model_type, int heads, const std::string& more = "") {
  return R"({"model_type":")" + model_type + R"(","hidden_size":7168,"num_hidden_layers":61,
    "intermediate_size":18432,"num_attention_heads":)" +
         std::to_string(heads) + R"(,"num_key_value_heads":)" + std::to_string(heads) + R"(,
    "q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,
    "v_head_dim":128,"vocab_size":129280,"max_position_embeddings":163840,"rms_norm_eps":1e-6,
    "rope_theta":10000,"n_routed_experts":8,"num_experts_per_tok":2,"n_shared_experts":1,
    "moe_intermediate_size":2048,"first_k_dense_replace":3,"n_group":1,"topk_group":1,
    "norm_topk_prob":true,"scoring_func":"sigmoid","topk_method":"noaux_tc","hidden_act":"silu",
    "num_nextn_predict_layers":1,"tie_word_embeddings":false)" +
         more + "}";
}

std::string GroupedConfig(const std::string& model_type, int layers, int heads, int kv_heads,
                          int head_dim) {
  return R"({"model_type":")" + model_type + R"(","hidden_size":576,"intermediate_size":1536,
    "num_hidden_layers":)" +
         std::to_string(layers) + R"(,"num_attention_heads":)" + std::to_string(heads) +
         R"(,"num_key_value_heads":)" + std::to_string(kv_heads) + R"(,"head_dim":)" +
         std::to_string(head_dim) + R"(,"vocab_size":49152,"max_position_embeddings":8192,
    "rms_norm_eps":1e-5,"rope_theta":10000,"hidden_act":"silu","tie_word_embeddings":true})";
}

struct Example {
  std::string config;
  size_t f16_bytes;
};

std::vector<Example> Examples() {
  return {
      {GroupedConfig("llama", 30, 9, 3, 64), 23'040},
      {GroupedConfig("qwen3", 48, 32, 4, 128), 98'304},
      {LatentConfig("deepseek_v3", 128), 70'272},
      {LatentConfig("kimi_k2", 64), 70'272},
      {LatentConfig("deepseek_v32", 128,
                    R"(,"index_n_heads":64,"index_head_dim":128,"index_topk":2048)"),
       85'888},
  };
}

/// Elements a token, of all layers: 2 G D for grouped-query attention, c + dr + dI for latents.
size_t ElementsByFormula(const ModelDescription& model) {
  const AttentionDescription& attention = model.attention;
  const int layer = attention.kind == AttentionKind::kMla
                        ? attention.mla.latent_dim + attention.mla.rope_dim +
                              (attention.indexer.num_heads > 0 ? attention.indexer.head_dim : 0)
                        : 2 * attention.num_kv_heads * attention.head_dim;
  return static_cast<size_t>(model.num_layers()) * static_cast<size_t>(layer);
}

TEST(LayoutOf, PublishedModels_BytesOfATokenAreThoseOfTheDocument) {
  for (const Example& example : Examples()) {
    const Result<json::object> config = json::ParseObject(example.config);
    ASSERT_TRUE(config.ok()) << config.error().message();
    const Result<ModelDescription> model = Describe(*config);
    ASSERT_TRUE(model.ok()) << model.error().message();
    for (const int block_size : {16, 32, 64}) {
      LoadOptions options;
      options.block_size = block_size;
      const kernels::KvLayout f16 = LayoutOf(*model, options, model->num_layers());
      EXPECT_EQ(f16.bytes_per_token(), example.f16_bytes) << model->family;
      EXPECT_EQ(f16.bytes_per_token(), 2 * ElementsByFormula(*model)) << model->family;
      // The pages of these models need no padding, so the printed figure is what memory it takes.
      EXPECT_EQ(f16.page_bytes(), static_cast<size_t>(block_size) * example.f16_bytes);
      options.activation = Activation::kF32;
      EXPECT_EQ(LayoutOf(*model, options, model->num_layers()).bytes_per_token(),
                2 * example.f16_bytes)
          << model->family;
    }
  }
}

TEST(LayoutOf, TypesThatWereAskedFor_ApplyToKeysAndValuesApart) {
  const ModelDescription model = Describe(json::ParseObject(Examples()[1].config).value()).value();
  const auto bytes = [&](std::optional<kernels::KvType> k, std::optional<kernels::KvType> v,
                         Activation activation) {
    return LayoutOf(model, {.activation = activation, .k_type = k, .v_type = v}, model.num_layers())
        .bytes_per_token();
  };
  constexpr auto kQ8 = kernels::KvType::kQ8_0;
  // 48 layers, 4 KV heads of 128.
  EXPECT_EQ(bytes(kQ8, kQ8, Activation::kInt8), 2u * 48u * 4u * 136u);
  EXPECT_EQ(bytes(kQ8, {}, Activation::kInt8), 48u * 4u * (136u + 256u));
  EXPECT_EQ(bytes({}, kQ8, Activation::kF32), 48u * 4u * (512u + 136u));
}

TEST(LayoutOf, Latent_OffsetsAreThoseOfTheDocument) {
  const ModelDescription model =
      Describe(json::ParseObject(Examples().back().config).value()).value();
  const kernels::KvLayout layout = LayoutOf(model, {.block_size = 32}, model.num_layers());
  ASSERT_EQ(layout.kind, kernels::KvKind::kLatent);
  const size_t layer = 32u * (512u + 64u + 128u) * 2u;
  EXPECT_EQ(layout.k_offset(0, 0), 0u);
  EXPECT_EQ(layout.index_offset(0), 32u * (512u + 64u) * 2u);
  EXPECT_EQ(layout.k_offset(7, 0), 7 * layer);
  EXPECT_EQ(layout.index_offset(7), 7 * layer + 32u * (512u + 64u) * 2u);
  const kernels::KvLayout int8 = LayoutOf(
      model, {.k_type = kernels::KvType::kQ8_0, .v_type = kernels::KvType::kQ8_0, .block_size = 32},
      model.num_layers());
  EXPECT_EQ(int8.index_offset(0), 32u * (576u + 2u * 18u));
  EXPECT_EQ(int8.k_offset(1, 0), 32u * (576u + 2u * 18u + 128u + 2u * 4u));
}

TEST(FormFor, Bfloat16_OnlyWithSuchWeightsOnAnIsaThatHasIt) {
  using kernels::WeightFormat;
  for (const kernels::Isa isa : kernels::AvailableIsas()) {
    for (size_t i = 0; i < kernels::kNumWeightFormats; ++i) {
      const auto format = static_cast<WeightFormat>(i);
      EXPECT_EQ(FormFor(Activation::kF32, format, isa), ActivationForm::kF32);
      const bool bf16 = (format == WeightFormat::kBF16 || format == WeightFormat::kF8) &&
                        isa == kernels::Isa::kAvx512Bf16;
      const ActivationForm expected = kernels::IsIntegerFormat(format) ? ActivationForm::kInt8
                                      : bf16                           ? ActivationForm::kBf16
                                                                       : ActivationForm::kF32;
      EXPECT_EQ(FormFor(Activation::kInt8, format, isa), expected)
          << kernels::WeightFormatName(format) << " " << kernels::IsaName(isa);
    }
  }
}

}  // namespace
}  // namespace halfmoon::model
