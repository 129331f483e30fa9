// SPDX-License-Identifier: Apache-2.0
// Configuration and names of the mixture families in GGUF files. Files as the public converter
// writes them, with the logits that follow, are tests/e2e/test_gguf.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "checkpoint/gguf_test_file.h"
#include "checkpoint/gguf_translated_for_test.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::Shape;

/// Every field of `expected` is in `config`, with that value.
void ExpectFields(const json::object& config, std::string_view expected) {
  const json::object fields = json::ParseObject(expected).value();
  for (const auto& [key, value] : fields) {
    const json::value* found = config.if_contains(key);
    ASSERT_NE(found, nullptr) << key;
    EXPECT_EQ(*found, value) << key;
  }
}

/// Writes "<architecture>.<key>".
struct Keys {
  GgufTestFile* file;
  std::string architecture;

  Keys& U32(const std::string& key, uint32_t value) {
    file->U32(architecture + "." + key, value);
    return *this;
  }
  Keys& F32(const std::string& key, float value) {
    file->F32(architecture + "." + key, value);
    return *this;
  }
};

/// What every file of `architecture` has: H 64, F 128, `blocks` layers, V 96.
GgufTestFile Common(const std::string& architecture, uint32_t blocks) {
  GgufTestFile file;
  file.String("general.architecture", architecture);
  Keys keys{&file, architecture};
  keys.U32("block_count", blocks).U32("context_length", 4096).U32("embedding_length", 64);
  keys.U32("feed_forward_length", 128).U32("attention.head_count", 2);
  keys.F32("attention.layer_norm_rms_epsilon", 1e-6f).F32("rope.freq_base", 1e4f);
  file.Tensor("token_embd.weight", {96, 64}).Tensor("output_norm.weight", {64});
  file.Tensor("output.weight", {96, 64});
  return file;
}

void AddDeepseekMixture(GgufTestFile* file, const std::string& architecture) {
  Keys keys{file, architecture};
  keys.U32("expert_count", 4).U32("expert_used_count", 2).U32("expert_shared_count", 1);
  keys.U32("expert_feed_forward_length", 32).U32("leading_dense_block_count", 1);
  keys.U32("expert_group_count", 2).U32("expert_group_used_count", 1);
  keys.F32("expert_weights_scale", 2.5f).U32("expert_gating_func", 2);
  file->Bool(architecture + ".expert_weights_norm", true);
  file->Tensor("blk.0.ffn_gate.weight", {128, 64}).Tensor("blk.1.ffn_gate_inp.weight", {4, 64});
  file->Tensor("blk.1.exp_probs_b.bias", {4}).Tensor("blk.1.ffn_up_shexp.weight", {32, 64});
  file->Tensor("blk.1.ffn_gate_exps.weight", {4, 32, 64});
}

/// Two heads of 24 + 8 and 16, latent of 48, query latent of 40.
GgufTestFile Deepseek(const std::string& architecture = "deepseek2", bool split = true,
                      uint32_t blocks = 2) {
  GgufTestFile file = Common(architecture, blocks);
  Keys keys{&file, architecture};
  keys.U32("attention.q_lora_rank", 40).U32("attention.kv_lora_rank", 48);
  keys.U32("rope.dimension_count", 8).U32("attention.head_count_kv", split ? 1 : 2);
  keys.U32("attention.key_length", split ? 56 : 32).U32("attention.value_length", split ? 48 : 16);
  if (split) {
    keys.U32("attention.key_length_mla", 32).U32("attention.value_length_mla", 16);
    file.Tensor("blk.0.attn_k_b.weight", {2, 48, 24}).Tensor("blk.0.attn_v_b.weight", {2, 16, 48});
  } else {
    file.Tensor("blk.0.attn_kv_b.weight", {80, 48});
  }
  AddDeepseekMixture(&file, architecture);
  return file;
}

constexpr std::string_view kDeepseekConfig = R"({
    "architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","num_hidden_layers":2,
    "num_attention_heads":2,"num_key_value_heads":2,"q_lora_rank":40,"kv_lora_rank":48,
    "qk_nope_head_dim":24,"qk_rope_head_dim":8,"v_head_dim":16,"attention_bias":false,
    "n_routed_experts":4,"num_experts_per_tok":2,"n_shared_experts":1,"moe_intermediate_size":32,
    "first_k_dense_replace":1,"n_group":2,"topk_group":1,"norm_topk_prob":true,
    "routed_scaling_factor":2.5,"scoring_func":"sigmoid","topk_method":"noaux_tc",
    "moe_layer_freq":1,"num_nextn_predict_layers":0,"rope_scaling":null,"rope_theta":1e4,
    "intermediate_size":128,"tie_word_embeddings":false})";

TEST(GgufDeepseek, SplitAndFusedFiles_HaveThePublishedKeys) {
  const std::string split_bytes = Deepseek().Build();
  const auto split = Translate(split_bytes);
  ASSERT_TRUE(split.ok()) << split.error().message();
  ExpectFields(split->config, kDeepseekConfig);
  const std::string k_b = "model.layers.0.self_attn.k_b_proj.weight";
  ASSERT_TRUE(split->tensors.contains(k_b));
  EXPECT_EQ(split->tensors.at(k_b).view.shape, Shape({96, 24}));
  EXPECT_EQ(split->tensors.at("model.layers.0.self_attn.v_b_proj.weight").view.shape,
            Shape({32, 48}));

  const std::string fused_bytes = Deepseek("deepseek2", false).Build();
  const auto fused = Translate(fused_bytes);
  ASSERT_TRUE(fused.ok()) << fused.error().message();
  ExpectFields(fused->config, kDeepseekConfig);
  EXPECT_TRUE(fused->tensors.contains("model.layers.0.self_attn.kv_b_proj.weight"));
}

TEST(GgufDeepseek, Names_AreThePublishedOnes) {
  GgufTestFile file = Deepseek();
  for (const char* name : {"attn_q", "attn_q_a", "attn_q_a_norm", "attn_q_b", "attn_kv_a_mqa",
                           "attn_kv_a_norm", "attn_output"}) {
    file.Tensor("blk.1." + std::string(name) + ".weight", {64});
  }
  file.Tensor("blk.1.ffn_gate_shexp.weight", {32, 64});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  for (const char* name :
       {"self_attn.q_proj.weight", "self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight",
        "self_attn.q_b_proj.weight", "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight", "self_attn.o_proj.weight", "mlp.gate.weight",
        "mlp.gate.e_score_correction_bias", "mlp.experts.3.gate_proj.weight",
        "mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"}) {
    EXPECT_TRUE(translated->tensors.contains("model.layers.1." + std::string(name))) << name;
  }
}

TEST(GgufDeepseek, NoQueryLatent_IsNull) {
  GgufTestFile file = Common("deepseek2", 2);
  Keys keys{&file, "deepseek2"};
  keys.U32("attention.kv_lora_rank", 48).U32("rope.dimension_count", 8);
  keys.U32("attention.key_length", 32).U32("attention.value_length", 16);
  AddDeepseekMixture(&file, "deepseek2");
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_TRUE(translated->config.at("q_lora_rank").is_null());
}

TEST(GgufDeepseek, YarnConstants_AreUnfolded) {
  GgufTestFile file = Deepseek();
  file.String("deepseek2.rope.scaling.type", "yarn").F32("deepseek2.rope.scaling.factor", 40);
  file.U32("deepseek2.rope.scaling.original_context_length", 4096);
  file.F32("deepseek2.rope.scaling.yarn_log_multiplier", 0.1f * 0.707f);
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_EQ(translated->config.at("rope_scaling"),
            json::Parse(R"({"rope_type":"yarn","factor":40.0,"mscale":0.707,"mscale_all_dim":0.707,
                            "original_max_position_embeddings":4096})")
                .value());
}

TEST(GgufDeepseek, KimiVocabulary_IsKimi) {
  GgufTestFile file = Deepseek();
  file.String("tokenizer.ggml.pre", "kimi-k2");
  file.String("deepseek2.rope.scaling.type", "yarn").F32("deepseek2.rope.scaling.factor", 32);
  file.U32("deepseek2.rope.scaling.original_context_length", 4096);
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_EQ(translated->config.at("model_type"), "kimi_k2");
  EXPECT_EQ(translated->config.at("rope_scaling").at("beta_fast"), 1.0);
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.self_attn.k_b_proj.weight"));
}

TEST(GgufDeepseek, OldFilesWithoutGroups_HaveThoseOfV3) {
  const auto config_of = [](uint32_t num_experts) {
    GgufTestFile file;
    file.String("general.architecture", "deepseek2");
    Keys keys{&file, "deepseek2"};
    keys.U32("block_count", 61).U32("context_length", 163840).U32("embedding_length", 7168);
    keys.U32("feed_forward_length", 18432).U32("attention.head_count", 128);
    keys.F32("attention.layer_norm_rms_epsilon", 1e-6f).U32("rope.dimension_count", 64);
    keys.U32("attention.q_lora_rank", 1536).U32("attention.kv_lora_rank", 512);
    keys.U32("attention.key_length", 192).U32("attention.value_length", 128);
    keys.U32("expert_count", num_experts).U32("expert_used_count", 8);
    keys.U32("expert_shared_count", 1).U32("expert_feed_forward_length", 2048);
    keys.U32("leading_dense_block_count", 3).U32("expert_gating_func", 2);
    keys.U32("vocab_size", 129280);
    const auto translated = Translate(file.Build());
    EXPECT_TRUE(translated.ok()) << translated.error().message();
    return translated->config;
  };
  ExpectFields(config_of(256), R"({"n_group":8,"topk_group":4,"qk_nope_head_dim":128,
                                   "norm_topk_prob":false,"routed_scaling_factor":1.0})");
  ExpectFields(config_of(384), R"({"n_group":1,"topk_group":1})");
}

TEST(GgufDeepseek, Sparse_HasTheIndexer) {
  GgufTestFile file = Deepseek("deepseek32", true, 3);
  Keys keys{&file, "deepseek32"};
  keys.U32("attention.indexer.head_count", 3).U32("attention.indexer.key_length", 32);
  keys.U32("attention.indexer.top_k", 24).U32("nextn_predict_layers", 1);
  for (const char* name : {"indexer.attn_q_b.weight", "indexer.attn_k.weight",
                           "indexer.proj.weight", "indexer.k_norm.weight", "indexer.k_norm.bias"}) {
    file.Tensor("blk.0." + std::string(name), {64});
  }
  for (const char* name :
       {"eh_proj", "enorm", "hnorm", "embed_tokens", "shared_head_head", "shared_head_norm"}) {
    file.Tensor("blk.2.nextn." + std::string(name) + ".weight", {64});
  }
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  ExpectFields(translated->config, R"({"model_type":"deepseek_v32","index_n_heads":3,
      "index_head_dim":32,"index_topk":24,"num_hidden_layers":2,"num_nextn_predict_layers":1})");
  for (const char* name :
       {"0.self_attn.indexer.wq_b.weight", "0.self_attn.indexer.wk.weight",
        "0.self_attn.indexer.weights_proj.weight", "0.self_attn.indexer.k_norm.weight",
        "0.self_attn.indexer.k_norm.bias", "2.eh_proj.weight", "2.enorm.weight", "2.hnorm.weight",
        "2.embed_tokens.weight", "2.shared_head.head.weight", "2.shared_head.norm.weight"}) {
    EXPECT_TRUE(translated->tensors.contains("model.layers." + std::string(name))) << name;
  }
}

TEST(GgufDeepseek, DraftLayerWithoutTensors_IsNotThere) {
  GgufTestFile file = Deepseek("deepseek2", true, 3);
  file.U32("deepseek2.nextn_predict_layers", 1);
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  EXPECT_EQ(translated->config.at("num_hidden_layers"), 2);
  EXPECT_EQ(translated->config.at("num_nextn_predict_layers"), 0);
}

TEST(GgufDeepseek, WhatIsNotKnown_IsNamed) {
  GgufTestFile v2 = Common("deepseek2", 2);
  Keys keys{&v2, "deepseek2"};
  keys.U32("attention.kv_lora_rank", 48).U32("rope.dimension_count", 8);
  keys.U32("attention.key_length", 32).U32("attention.value_length", 16);
  keys.U32("expert_count", 4).U32("expert_used_count", 2);
  ExpectError(v2, ErrorCode::kUnsupported, "'deepseek2.expert_gating_func' is 0 (DeepSeek V2's");
  ExpectError(Deepseek().F32("deepseek2.attention.temperature_scale", 0.1f),
              ErrorCode::kUnsupported, "'deepseek2.attention.temperature_scale' is set");
  ExpectError(Deepseek().U32("deepseek2.attention.indexer.head_count", 3), ErrorCode::kUnsupported,
              "'deepseek2.attention.indexer.head_count' is set");
  ExpectError(Deepseek("deepseek32"), ErrorCode::kCorrupt,
              "'deepseek32.attention.indexer.head_count' is missing");
  ExpectError(Deepseek().Tensor("blk.1.attn_output.bias", {64}), ErrorCode::kUnsupported,
              "tensor 'blk.1.attn_output.bias' is a bias");
  ExpectError(Deepseek().U32("deepseek2.nextn_predict_layers", 2), ErrorCode::kCorrupt,
              "'deepseek2.nextn_predict_layers' is 2, expected less than the 2 blocks");
  ExpectError(
      Deepseek().Numbers("deepseek2.swiglu_clamp_exp", GgufType::kF32, std::vector<float>{7, 7}),
      ErrorCode::kUnsupported, "'deepseek2.swiglu_clamp_exp' is set");
}

TEST(GgufDeepseek, ShapesThatContradict_NameTheTensor) {
  ExpectError(Deepseek().Tensor("blk.1.attn_k_b.weight", {3, 48, 24}), ErrorCode::kCorrupt,
              "tensor 'blk.1.attn_k_b.weight': shape [3, 48, 24] is not a stack of 2 heads");
  ExpectError(Deepseek().Tensor("blk.1.attn_v_b.weight", {33, 48}), ErrorCode::kCorrupt,
              "tensor 'blk.1.attn_v_b.weight': shape [33, 48] is not a stack of 2 heads");
  ExpectError(Deepseek().Tensor("blk.1.ffn_gate_up_exps.weight", {4, 33, 64}), ErrorCode::kCorrupt,
              "shape [4, 33, 64] is not a stack of 4 experts");
  GgufTestFile heads = Common("deepseek2", 2);
  Keys keys{&heads, "deepseek2"};
  keys.U32("attention.kv_lora_rank", 48).U32("rope.dimension_count", 32);
  keys.U32("attention.key_length", 32).U32("attention.value_length", 16);
  ExpectError(heads, ErrorCode::kCorrupt,
              "'deepseek2.attention.key_length' is 32, expected more than the 32 rotary");
}

TEST(GgufDeepseek, GateAndUpInOneTensor_BecomeTwo) {
  GgufTestFile file = Deepseek("deepseek2", true, 3);
  file.Tensor("blk.2.ffn_gate_up_exps.weight", {4, 64, 64});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  const std::string prefix = "model.layers.2.mlp.experts.1.";
  const StoredTensor& gate = translated->tensors.at(prefix + "gate_proj.weight");
  const StoredTensor& up = translated->tensors.at(prefix + "up_proj.weight");
  EXPECT_EQ(gate.view.shape, Shape({32, 64}));
  EXPECT_EQ(up.view.bytes.data() - gate.view.bytes.data(), 32 * 64 * 4);
}

TEST(GgufLing, File_HasThePublishedKeysAndNames) {
  GgufTestFile file = Common("bailingmoe2", 3);
  Keys keys{&file, "bailingmoe2"};
  keys.U32("attention.head_count_kv", 1).U32("attention.key_length", 32);
  keys.U32("attention.value_length", 32).U32("rope.dimension_count", 16);
  keys.U32("nextn_predict_layers", 1);
  AddDeepseekMixture(&file, "bailingmoe2");
  for (const char* name : {"attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"}) {
    file.Tensor("blk.0." + std::string(name) + ".weight", {64});
  }
  file.Tensor("blk.0.attn_qkv.bias", {128}).Tensor("blk.2.layer_output_norm.weight", {64});
  file.Tensor("blk.2.nextn.eh_proj.weight", {64, 128});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  ExpectFields(translated->config, R"({"architectures":["BailingMoeV2ForCausalLM"],
      "model_type":"bailing_moe_v2","num_hidden_layers":2,"num_nextn_predict_layers":1,
      "num_attention_heads":2,"num_key_value_heads":1,"head_dim":32,"partial_rotary_factor":0.5,
      "use_qk_norm":true,"use_qkv_bias":true,"use_bias":false,"num_experts":4,
      "num_experts_per_tok":2,"num_shared_experts":1,"moe_intermediate_size":32,
      "moe_shared_expert_intermediate_size":32,"score_function":"sigmoid","n_group":2,
      "topk_group":1,"moe_router_enable_expert_bias":true,"norm_topk_prob":true,
      "routed_scaling_factor":2.5,"first_k_dense_replace":1})");
  EXPECT_TRUE(translated->tensors.contains("model.word_embeddings.weight"));
  for (const char* name :
       {"0.attention.query_key_value.weight", "0.attention.query_key_value.bias",
        "0.attention.dense.weight", "0.attention.query_layernorm.weight",
        "0.attention.key_layernorm.weight", "1.mlp.gate.expert_bias",
        "1.mlp.shared_experts.up_proj.weight", "2.final_layernorm.weight", "2.eh_proj.weight"}) {
    EXPECT_TRUE(translated->tensors.contains("model.layers." + std::string(name))) << name;
  }
}

TEST(GgufLing, OddPartOfAHead_SurvivesTheFactor) {
  for (const uint32_t rotary : {2u, 10u, 22u, 46u, 54u, 94u}) {
    GgufTestFile file = Common("bailingmoe2", 2);
    Keys keys{&file, "bailingmoe2"};
    keys.U32("attention.key_length", 96).U32("rope.dimension_count", rotary);
    AddDeepseekMixture(&file, "bailingmoe2");
    const std::string bytes = file.Build();
    const auto translated = Translate(bytes);
    ASSERT_TRUE(translated.ok()) << translated.error().message();
    const double factor = translated->config.at("partial_rotary_factor").as_double();
    EXPECT_EQ(static_cast<uint32_t>(96 * factor), rotary);
  }
}

TEST(GgufLing, SharedExpertsThatDoNotDivide_NameTheTensor) {
  GgufTestFile file = Common("bailingmoe2", 2);
  Keys keys{&file, "bailingmoe2"};
  keys.U32("expert_count", 4).U32("expert_used_count", 2).U32("expert_shared_count", 3);
  keys.U32("expert_feed_forward_length", 32).U32("expert_gating_func", 2);
  file.Tensor("blk.0.ffn_up_shexp.weight", {32, 64});
  ExpectError(file, ErrorCode::kCorrupt,
              "tensor 'blk.0.ffn_up_shexp.weight': 32 rows are not those of 3 shared experts");
}

TEST(GgufMinimax, File_HasThePublishedKeysAndNames) {
  GgufTestFile file = Common("minimax-m2", 2);
  Keys keys{&file, "minimax-m2"};
  keys.U32("attention.head_count_kv", 1).U32("attention.key_length", 32);
  keys.U32("attention.value_length", 32).U32("rope.dimension_count", 16);
  keys.U32("expert_count", 4).U32("expert_used_count", 2).U32("expert_feed_forward_length", 48);
  keys.U32("expert_gating_func", 2);
  file.Tensor("blk.0.attn_q_norm.weight", {64}).Tensor("blk.0.ffn_gate_inp.weight", {4, 64});
  file.Tensor("blk.0.exp_probs_b.bias", {4}).Tensor("blk.0.ffn_up_exps.weight", {4, 48, 64});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  ExpectFields(translated->config, R"({"architectures":["MiniMaxM2ForCausalLM"],
      "model_type":"minimax_m2","intermediate_size":48,"head_dim":32,"rotary_dim":16,
      "use_qk_norm":true,"qk_norm_type":"per_layer","num_local_experts":4,"num_experts_per_tok":2,
      "scoring_func":"sigmoid","use_routing_bias":true})");
  for (const char* name :
       {"block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias",
        "block_sparse_moe.experts.3.w3.weight", "self_attn.q_norm.weight"}) {
    EXPECT_TRUE(translated->tensors.contains("model.layers.0." + std::string(name))) << name;
  }
  ExpectError(GgufTestFile(file).U32("minimax-m2.expert_shared_count", 1), ErrorCode::kUnsupported,
              "'minimax-m2.expert_shared_count' is set");
}

TEST(GgufGlm, File_HasThePublishedKeysAndNames) {
  GgufTestFile file = Common("glm4moe", 2);
  Keys keys{&file, "glm4moe"};
  keys.U32("attention.head_count_kv", 1).U32("attention.key_length", 32);
  keys.U32("attention.value_length", 32).U32("rope.dimension_count", 16);
  AddDeepseekMixture(&file, "glm4moe");
  file.Tensor("blk.0.attn_q.bias", {64}).Tensor("blk.0.post_attention_norm.weight", {64});
  const std::string bytes = file.Build();
  const auto translated = Translate(bytes);
  ASSERT_TRUE(translated.ok()) << translated.error().message();
  ExpectFields(translated->config, R"({"model_type":"glm4_moe","attention_bias":true,
      "use_qk_norm":false,"partial_rotary_factor":0.5,"n_routed_experts":4,"n_shared_experts":1})");
  EXPECT_TRUE(translated->tensors.contains("model.layers.0.post_attention_layernorm.weight"));
}

TEST(GgufFamilies, PlainOnes_RefuseMixtureKeys) {
  for (const char* key : {"expert_shared_count", "leading_dense_block_count",
                          "nextn_predict_layers", "attention.q_lora_rank"}) {
    ExpectError(SmallGgufModel("qwen3moe", 4).U32("qwen3moe." + std::string(key), 1),
                ErrorCode::kUnsupported, key);
  }
  ExpectError(SmallGgufModel("qwen3moe", 4).U32("qwen3moe.expert_group_count", 2),
              ErrorCode::kUnsupported, "expert_group_count");
  ExpectError(SmallGgufModel("qwen3moe", 4).F32("qwen3moe.expert_weights_scale", 2),
              ErrorCode::kUnsupported, "expert_weights_scale");
  ExpectError(SmallGgufModel("qwen3").U32("qwen3.expert_count", 4), ErrorCode::kUnsupported,
              "'qwen3.expert_count' is set");
  ExpectError(SmallGgufModel("qwen3").Tensor("blk.1.ffn_up.bias", {128}), ErrorCode::kUnsupported,
              "tensor 'blk.1.ffn_up.bias' is a bias");
  ExpectError(SmallGgufModel("llama")
                  .String("llama.rope.scaling.type", "yarn")
                  .F32("llama.rope.scaling.factor", 4)
                  .U32("llama.rope.scaling.original_context_length", 128)
                  .F32("llama.rope.scaling.yarn_ext_factor", 0.5f),
              ErrorCode::kUnsupported, "yarn_ext_factor' is 0.5");
}

}  // namespace
}  // namespace halfmoon::checkpoint
