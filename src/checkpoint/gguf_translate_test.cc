// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_translate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/gguf_test_file.h"
#include "checkpoint/gguf_translated_for_test.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using testing::HasSubstr;

float FirstFloat(const StoredTensor& stored) {
  float value;
  std::memcpy(&value, stored.view.bytes.data(), sizeof(value));
  return value;
}

TEST(GgufConfig, Llama_HasThePublishedKeys) {
  const std::string bytes = SmallGgufModel("llama").Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_EQ(json::value(translated->config), json::Parse(R"({
      "architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu",
      "hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"max_position_embeddings":512,
      "rms_norm_eps":1e-6,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":32,
      "attention_bias":false,"mlp_bias":false,"rope_theta":1e6,"rope_scaling":null,
      "vocab_size":96,"tie_word_embeddings":true})")
                                                 .value());
}

TEST(GgufConfig, Qwen3Moe_HasItsExpertKeys) {
  const std::string bytes = SmallGgufModel("qwen3moe", 4).Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  const json::object& config = translated->config;
  EXPECT_EQ(config.at("model_type"), "qwen3_moe");
  EXPECT_EQ(config.at("num_experts"), 4);
  EXPECT_EQ(config.at("num_experts_per_tok"), 2);
  EXPECT_EQ(config.at("moe_intermediate_size"), 32);
  EXPECT_EQ(config.at("norm_topk_prob"), true);
  EXPECT_EQ(config.at("decoder_sparse_step"), 1);
}

TEST(GgufConfig, LlamaWithExperts_IsMixtral) {
  const std::string bytes = SmallGgufModel("llama", 4).Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_EQ(translated->config.at("model_type"), "mixtral");
  EXPECT_EQ(translated->config.at("architectures"), json::array{"MixtralForCausalLM"});
  EXPECT_EQ(translated->config.at("num_local_experts"), 4);
}

TEST(GgufConfig, OptionalKeys_AreTranslated) {
  GgufTestFile file = SmallGgufModel("qwen3");
  file.U32("qwen3.attention.sliding_window", 128).U32("qwen3.attention.key_length", 32);
  file.U32("tokenizer.ggml.bos_token_id", 3).U32("tokenizer.ggml.eos_token_id", 5);
  file.Tensor("output.weight", {96, 64}).Tensor("blk.0.attn_q.bias", {64});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  const json::object& config = translated->config;
  EXPECT_EQ(config.at("model_type"), "qwen3");
  EXPECT_EQ(config.at("sliding_window"), 128);
  EXPECT_EQ(config.at("bos_token_id"), 3);
  EXPECT_EQ(config.at("eos_token_id"), 5);
  EXPECT_EQ(config.at("tie_word_embeddings"), false);
  EXPECT_EQ(config.at("attention_bias"), true);
  EXPECT_TRUE(translated->tensors.contains("lm_head.weight"));
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.self_attn.q_proj.bias"));
}

TEST(GgufConfig, EndOfTurnToken_JoinsEndOfText) {
  GgufTestFile file = SmallGgufModel("llama");
  file.U32("tokenizer.ggml.eos_token_id", 5).U32("tokenizer.ggml.eot_token_id", 7);
  const std::string bytes = file.Build();
  EXPECT_EQ(Translate(bytes)->config.at("eos_token_id"), (json::array{5, 7}));
}

TEST(GgufConfig, RopeScaling_TakesThePublishedForm) {
  GgufTestFile linear = SmallGgufModel("llama");
  linear.String("llama.rope.scaling.type", "linear").F32("llama.rope.scaling.factor", 4);
  EXPECT_EQ(Translate(linear.Build())->config.at("rope_scaling"),
            json::Parse(R"({"rope_type":"linear","factor":4.0})").value());
  GgufTestFile old_linear = SmallGgufModel("llama");
  old_linear.F32("llama.rope.scale_linear", 2);
  EXPECT_EQ(Translate(old_linear.Build())->config.at("rope_scaling"),
            json::Parse(R"({"rope_type":"linear","factor":2.0})").value());
  GgufTestFile yarn = SmallGgufModel("qwen3");
  yarn.String("qwen3.rope.scaling.type", "yarn").F32("qwen3.rope.scaling.factor", 4);
  yarn.U32("qwen3.rope.scaling.original_context_length", 128);
  EXPECT_EQ(
      Translate(yarn.Build())->config.at("rope_scaling"),
      json::Parse(R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":128})")
          .value());
  yarn.F32("qwen3.rope.scaling.yarn_beta_fast", 16).F32("qwen3.rope.scaling.yarn_beta_slow", 2);
  yarn.F32("qwen3.rope.scaling.attn_factor", 2);
  const json::value scaling = Translate(yarn.Build())->config.at("rope_scaling");
  EXPECT_EQ(scaling.at("beta_fast"), 16.0);
  EXPECT_EQ(scaling.at("beta_slow"), 2.0);
  EXPECT_NEAR(scaling.at("attention_factor").as_double(), 2 * (0.1 * std::log(4.0) + 1), 1e-12);
  GgufTestFile none = SmallGgufModel("llama");
  none.String("llama.rope.scaling.type", "none");
  EXPECT_TRUE(Translate(none.Build())->config.at("rope_scaling").is_null());
}

TEST(GgufConfig, Llama3RopeFactors_StayATensor) {
  GgufTestFile file = SmallGgufModel("llama");
  file.Tensor("rope_freqs.weight", {16});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok());
  ASSERT_TRUE(translated->tensors.contains("rope_freqs.weight"));
  EXPECT_EQ(translated->tensors.at("rope_freqs.weight").view.shape, Shape({16}));
}

TEST(GgufConfig, PerLayerArray_PassesWhereEqual) {
  GgufTestFile file = SmallGgufModel("llama");
  file.Numbers("llama.attention.value_length", GgufType::kI32, std::vector<int32_t>{32, 32});
  EXPECT_TRUE(Translate(file.Build()).ok());
  GgufTestFile uneven = SmallGgufModel("llama");
  uneven.Numbers("llama.attention.value_length", GgufType::kI32, std::vector<int32_t>{32, 16});
  ExpectError(uneven, ErrorCode::kUnsupported,
              "'llama.attention.value_length' differs between layers");
}

TEST(GgufConfig, UnknownArchitecture_IsUnsupported) {
  ExpectError(GgufTestFile().String("general.architecture", "mamba"), ErrorCode::kUnsupported,
              "architecture 'mamba' is not supported; supported are llama, qwen3, qwen3moe, "
              "deepseek2, deepseek32, bailingmoe2, minimax-m2, glm4moe");
  ExpectError(GgufTestFile(), ErrorCode::kCorrupt, "'general.architecture' is missing");
}

TEST(GgufConfig, MissingOrBadNumbers_NameTheKey) {
  GgufTestFile bare;
  bare.String("general.architecture", "llama");
  ExpectError(bare, ErrorCode::kCorrupt, "'llama.embedding_length' is missing");
  bare.U32("llama.embedding_length", 0);
  ExpectError(bare, ErrorCode::kCorrupt, "'llama.embedding_length' is 0, expected 1 to");
  GgufTestFile heads;
  heads.String("general.architecture", "llama")
      .U32("llama.embedding_length", 64)
      .U32("llama.block_count", 1);
  heads.U32("llama.feed_forward_length", 4).U32("llama.context_length", 9);
  heads.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f).U32("llama.attention.head_count", 7);
  ExpectError(heads, ErrorCode::kCorrupt, "7, which does not divide the embedding length 64");
}

TEST(GgufConfig, MathematicsNotKnownHere_IsUnsupported) {
  ExpectError(SmallGgufModel("llama").F32("llama.logit_scale", 2), ErrorCode::kUnsupported,
              "llama.logit_scale");
  ExpectError(SmallGgufModel("qwen3").U32("qwen3.rope.dimension_count", 16),
              ErrorCode::kUnsupported, "rotary dimensions 16");
  ExpectError(SmallGgufModel("qwen3moe", 4).U32("qwen3moe.expert_gating_func", 2),
              ErrorCode::kUnsupported, "only softmax");
  ExpectError(SmallGgufModel("llama").String("llama.rope.scaling.type", "longrope"),
              ErrorCode::kUnsupported, "'longrope'");
  ExpectError(SmallGgufModel("llama").String("llama.rope.scaling.type", "yarn"),
              ErrorCode::kCorrupt, "'llama.rope.scaling.factor' is missing");
}

TEST(GgufTensors, Llama_NamesAndRowOrder) {
  GgufTestFile file = SmallGgufModel("llama");
  file.Tensor("blk.0.attn_q.bias", {64}).Tensor("blk.1.attn_k.bias", {32});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  const TensorMap& tensors = translated->tensors;
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight", "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"}) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    EXPECT_EQ(tensors.at(name).row_order, RowOrder::kCanonical);
  }
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.k_proj.bias"}) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    EXPECT_EQ(tensors.at(name).row_order, RowOrder::kRopePairs) << name;
    EXPECT_EQ(tensors.at(name).rows_per_head, 32) << name;
  }
  EXPECT_EQ(tensors.at("model.layers.1.mlp.gate_proj.weight").view.dtype, DType::kQ4_0);
  EXPECT_EQ(tensors.at("model.layers.1.mlp.down_proj.weight").view.shape, Shape({64, 128}));
}

TEST(GgufTensors, Qwen3_KeepsRowsAndHasHeadNorms) {
  const std::string bytes = SmallGgufModel("qwen3").Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.self_attn.q_norm.weight"));
  EXPECT_TRUE(translated->tensors.contains("model.layers.1.self_attn.k_norm.weight"));
  EXPECT_EQ(translated->tensors.at("model.layers.0.self_attn.q_proj.weight").row_order,
            RowOrder::kCanonical);
}

TEST(GgufTensors, StackedExperts_BecomeViewsOfEach) {
  const std::string bytes = SmallGgufModel("qwen3moe", 4).Build();
  const auto qwen = Translate(bytes);
  ASSERT_TRUE(qwen.ok()) << qwen.error().message();
  EXPECT_TRUE(qwen->tensors.contains("model.layers.0.mlp.gate.weight"));
  const StoredTensor& up = qwen->tensors.at("model.layers.1.mlp.experts.3.up_proj.weight");
  EXPECT_EQ(up.view.shape, Shape({32, 64}));
  EXPECT_EQ(FirstFloat(up), 3 * 32 * 64 + 1);
  const StoredTensor& gate = qwen->tensors.at("model.layers.0.mlp.experts.1.gate_proj.weight");
  EXPECT_EQ(gate.view.dtype, DType::kQ4_0);
  EXPECT_EQ(gate.view.bytes.size(), 32u * 64 / 32 * 18);

  const std::string mixtral_bytes = SmallGgufModel("llama", 4).Build();
  const auto mixtral = Translate(mixtral_bytes);
  ASSERT_TRUE(mixtral.ok()) << mixtral.error().message();
  EXPECT_TRUE(mixtral->tensors.contains("model.layers.0.block_sparse_moe.gate.weight"));
  EXPECT_EQ(mixtral->tensors.at("model.layers.0.block_sparse_moe.experts.0.w1.weight").view.dtype,
            DType::kQ4_0);
  EXPECT_EQ(FirstFloat(mixtral->tensors.at("model.layers.0.block_sparse_moe.experts.2.w2.weight")),
            2 * 64 * 32 + 1);
  EXPECT_EQ(mixtral->tensors.at("model.layers.0.block_sparse_moe.experts.2.w3.weight").view.shape,
            Shape({32, 64}));
  EXPECT_EQ(mixtral->tensors.at("model.layers.0.self_attn.q_proj.weight").row_order,
            RowOrder::kRopePairs);
}

TEST(GgufTensors, OlderExpertNames_AreUnderstood) {
  GgufTestFile file = SmallGgufModel("llama");
  file.U32("llama.expert_count", 2).U32("llama.expert_used_count", 1);
  file.Tensor("blk.0.ffn_gate.1.weight", {8, 64}).Tensor("blk.0.ffn_down.0.weight", {64, 8});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.block_sparse_moe.experts.1.w1.weight"));
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.block_sparse_moe.experts.0.w2.weight"));
}

TEST(GgufTensors, UnknownNames_StayAsTheyAre) {
  GgufTestFile file = SmallGgufModel("llama");
  for (const char* name :
       {"extra", "blk.x.attn_q.weight", "blk.0.weight", "blk.0.ffn_gate_shexp.weight",
        "blk.0.ffn_gate.x.weight", "blk..attn_q.weight", "blk.", ""}) {
    file.Tensor(name, {64});
  }
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_TRUE(translated->tensors.contains("extra"));
  EXPECT_TRUE(translated->tensors.contains("blk.x.attn_q.weight"));
  EXPECT_TRUE(translated->tensors.contains("blk.0.weight"));
  EXPECT_TRUE(translated->tensors.contains("blk.0.ffn_gate_shexp.weight"));
  EXPECT_TRUE(translated->tensors.contains("blk.0.ffn_gate.x.weight"));
}

TEST(GgufTensors, ShapesThatContradict_NameTheTensor) {
  GgufTestFile stack = SmallGgufModel("qwen3moe", 4);
  stack.Tensor("blk.7.ffn_up_exps.weight", {3, 2, 64});
  ExpectError(stack, ErrorCode::kCorrupt,
              "tensor 'blk.7.ffn_up_exps.weight': shape [3, 2, 64] is not a stack of 4");
  ExpectError(SmallGgufModel("llama").Tensor("blk.0.ffn_up_exps.weight", {3, 2, 64}),
              ErrorCode::kCorrupt, "not a stack of 0 experts");
  ExpectError(SmallGgufModel("llama").Tensor("blk.9.attn_q.weight", {33, 2}), ErrorCode::kCorrupt,
              "tensor 'blk.9.attn_q.weight': shape [33, 2] is not whole heads of 32 rows");
  ExpectError(SmallGgufModel("llama").Tensor("model.norm.weight", {64}), ErrorCode::kCorrupt,
              "another tensor means 'model.norm.weight' too");
}

TEST(GgufTensors, EmptyStackWithHugeCount_DoesNotMultiply) {
  GgufTestFile file;
  file.String("general.architecture", "llama")
      .U32("llama.embedding_length", 4)
      .U32("llama.block_count", 1);
  file.U32("llama.expert_count", 4000000000u);
  ExpectError(file, ErrorCode::kCorrupt, "is missing");
  file.U32("llama.feed_forward_length", 4)
      .U32("llama.context_length", 9)
      .U32("llama.attention.head_count", 1);
  file.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f).U32("llama.vocab_size", 5);
  ExpectError(file, ErrorCode::kCorrupt, "'llama.expert_count' is 4000000000, expected 1 to 65536");
}

TEST(ReadGgufVocabulary, WholeTokenizer_IsPlainData) {
  GgufTestFile file;
  file.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  file.Strings("tokenizer.ggml.tokens", {"<s>", "a", "ab"})
      .Strings("tokenizer.ggml.merges", {"a b"});
  file.Numbers("tokenizer.ggml.token_type", GgufType::kI32, std::vector<int32_t>{3, 1, 1});
  file.Numbers("tokenizer.ggml.scores", GgufType::kF32, std::vector<float>{0, -1, -2});
  file.U32("tokenizer.ggml.bos_token_id", 0).U32("tokenizer.ggml.padding_token_id", 0xFFFFFFFFu);
  file.Bool("tokenizer.ggml.add_bos_token", true);
  const std::string bytes = file.Build();
  const auto parsed = ParseGguf(BytesOf(bytes));
  ASSERT_TRUE(parsed.ok());
  const auto vocabulary = ReadGgufVocabulary(parsed->metadata);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.error().message();
  ASSERT_TRUE(vocabulary->has_value());
  const GgufVocabulary& v = **vocabulary;
  EXPECT_EQ(v.model, "gpt2");
  EXPECT_EQ(v.pre, "smollm");
  EXPECT_EQ(v.tokens.size(), 3u);
  EXPECT_EQ(v.merges[0], "a b");
  EXPECT_EQ(v.token_types[0], 3);
  EXPECT_EQ(v.scores[2], -2);
  EXPECT_EQ(v.bos_id, 0);
  EXPECT_EQ(v.padding_id, std::nullopt);
  EXPECT_EQ(v.add_bos, true);
  EXPECT_EQ(v.add_eos, std::nullopt);
}

TEST(ReadGgufVocabulary, NoTokenizer_IsEmpty) {
  const std::string bytes = GgufTestFile().U32("x", 1).Build();
  EXPECT_FALSE(ReadGgufVocabulary(ParseGguf(BytesOf(bytes))->metadata)->has_value());
}

TEST(ReadGgufVocabulary, Contradictions_NameTheKey) {
  const auto expect = [](GgufTestFile file, std::string_view message) {
    const std::string bytes = file.Build();
    const auto parsed = ParseGguf(BytesOf(bytes));
    ASSERT_TRUE(parsed.ok());
    const auto vocabulary = ReadGgufVocabulary(parsed->metadata);
    ASSERT_FALSE(vocabulary.ok());
    EXPECT_EQ(vocabulary.error().code(), ErrorCode::kCorrupt);
    EXPECT_THAT(vocabulary.error().message(), HasSubstr(message));
  };
  GgufTestFile base;
  base.String("tokenizer.ggml.model", "gpt2");
  expect(base, "'tokenizer.ggml.tokens' is missing");
  base.Strings("tokenizer.ggml.tokens", {"a", "b"});
  expect(GgufTestFile(base).U32("tokenizer.ggml.eos_token_id", 2),
         "eos_token_id' is 2, but there are 2 tokens");
  expect(GgufTestFile(base).Numbers("tokenizer.ggml.scores", GgufType::kF32, std::vector<float>{1}),
         "scores' has 1 entries for 2 tokens");
  expect(GgufTestFile(base).Strings("tokenizer.ggml.token_type", {"x", "y"}),
         "expected an array of I32");
}

}  // namespace
}  // namespace halfmoon::checkpoint
