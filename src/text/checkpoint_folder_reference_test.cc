// SPDX-License-Identifier: Apache-2.0
// Whole checkpoint folders, opened the way a user's is: which files hold vocabulary and template is
// for the code to find. They carry templates of others, so they are read in place where they are.
#include "text/reference_checks.h"

namespace halfmoon::text {
namespace {

struct FolderCase {
  std::string folder;
  std::string tokenizer;  ///< tokenizers/small_<tokenizer>.json
  std::string chat;       ///< tokenizers/chat_<chat>.json; empty: the template is the folder's own
  bool adds_bos = false;  ///< to a plain text
  bool prints_bos = false;  ///< the template does
};

const std::vector<FolderCase>& Folders() {
  static const std::vector<FolderCase> folders = {
      {"llama/llama3_rope_untied", "llama_llama3_rope_untied", "smollm2", false, true},
      {"llama/smollm2_tied_f32", "llama_smollm2_tied_f32", "smollm2", false, true},
      {"mixtral/base", "mixtral_base", "", true, false},
      {"mixtral/sliding_window", "mixtral_base", "", true, false},
      {"qwen3/dense", "qwen3_dense", "qwen3"},
      {"qwen3_moe/norm_topk", "qwen3_dense", "qwen3"},
      {"qwen3_moe/sparse_step2_no_norm", "qwen3_dense", "qwen3"},
      {"deepseek_v3/bf16", "deepseek_v3_bf16", "deepseek_v3", true, true},
      {"deepseek_v3/fp8", "deepseek_v3_bf16", "deepseek_v3", true, true},
      {"deepseek_v3/no_q_lora_no_yarn", "deepseek_v3_bf16", "deepseek_v3", true, true},
      {"deepseek_v32/bf16", "deepseek_v3_bf16", "deepseek_v3", true, true},
      {"deepseek_v32/fp8_ue8m0", "deepseek_v3_bf16", "deepseek_v3", true, true},
      {"kimi_k2/bf16", "kimi_k2_bf16", "kimi_k2"},
      {"kimi_k2/int4", "kimi_k2_bf16", "kimi_k2"},
      {"minimax_m2/bf16", "minimax_m2_bf16", "minimax_m2", false, true},
      {"minimax_m2/fp8", "minimax_m2_bf16", "minimax_m2", false, true},
      {"bailing_moe_v2/bf16_mtp", "bailing_moe_v2_bf16_mtp", "ling"},
      {"bailing_moe_v2/one_group_qkv_bias", "bailing_moe_v2_bf16_mtp", "ling"},
      {"glm4_moe/bf16_mtp", "glm4_moe_bf16_mtp", "glm4_6"},
  };
  return folders;
}

class CheckpointFolder : public ::testing::TestWithParam<FolderCase> {
 protected:
  void SetUp() override {
    reference_ = ReferenceFolder("checkpoint folder " + GetParam().folder);
    if (!reference_) return;
    folder_ = *reference_ / GetParam().folder;
    auto opened = Tokenizer::LoadFromFolder(folder_);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    tokenizer_ = std::move(opened).value();
  }
  json::value Golden(const std::string& name) const {
    return ReadJson(*reference_ / "tokenizers" / (name + ".json"));
  }

  std::optional<std::filesystem::path> reference_;
  std::filesystem::path folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(CheckpointFolder, Tokenizer_GivesTheReferenceIds) {
  if (!reference_) return;
  ExpectReference(*tokenizer_, EncodedTexts(Golden("small_" + GetParam().tokenizer)),
                  GetParam().folder);
  const json::value expected = ReadJson(folder_ / "expected.json");
  for (const json::value& prompt : expected.at("prompts").as_array()) {
    const std::string text = Text(prompt.at("text"));
    // A prompt cut inside a character: the reference prints one U+FFFD a byte for
    // SentencePiece-style vocabularies, here it is one a maximal subpart for all.
    if (text.find("\xEF\xBF\xBD") != std::string::npos) continue;
    EXPECT_EQ(tokenizer_->Decode(Ids(prompt.at("input_ids"))), text);
  }
  EXPECT_FALSE(tokenizer_->eos_ids().empty());
}

TEST_P(CheckpointFolder, Template_RendersAsTheReferenceAndBosComesOnce) {
  if (!reference_) return;
  const auto source = FindChatTemplate(folder_);
  ASSERT_TRUE(source.ok()) << source.error().message();
  ASSERT_TRUE(source->has_value());
  std::vector<std::string> renderings;
  if (!GetParam().chat.empty()) {
    const json::value golden = Golden("chat_" + GetParam().chat);
    renderings = ExpectRenderings(golden, GetParam().folder, **source, tokenizer_->bos_token(),
                                  tokenizer_->eos_token());
    EXPECT_FALSE(renderings.empty());
  }

  const std::optional<int32_t> bos = tokenizer_->bos_id();
  const auto plain = tokenizer_->Encode("x");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(bos && plain->front() == *bos, GetParam().adds_bos);
  for (const std::string& rendering : renderings) {
    // Rendered prompts are encoded like this wherever they come from (serve/prepare.cc).
    const auto ids = tokenizer_->Encode(rendering, {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok());
    ASSERT_GE(ids->size(), 2u);
    EXPECT_EQ(bos && ids->at(0) == *bos, GetParam().prints_bos);
    EXPECT_FALSE(bos && ids->at(1) == *bos);
    EXPECT_EQ(tokenizer_->Decode(*ids), rendering);
  }
}

INSTANTIATE_TEST_SUITE_P(OfReference, CheckpointFolder, ::testing::ValuesIn(Folders()),
                         [](const auto& tested) {
                           std::string name = tested.param.folder;
                           std::replace(name.begin(), name.end(), '/', '_');
                           return name;
                         });

TEST(CheckpointFolderReference, KimisPattern_IsThatOfTheReferenceWithoutItsFile) {
  const auto reference = ReferenceFolder("Kimi's pattern");
  if (!reference) return;
  // Published folders have no tiktoken_pattern.json; what is built in has to give the same ids.
  const auto folder = std::filesystem::path(::testing::TempDir()) / "kimi_without_pattern";
  std::filesystem::create_directories(folder);
  for (const char* file : {"tiktoken.model", "tokenizer_config.json"}) {
    std::filesystem::copy_file(*reference / "kimi_k2" / "bf16" / file, folder / file,
                               std::filesystem::copy_options::overwrite_existing);
  }
  const auto tokenizer = Tokenizer::LoadFromFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const json::value golden = ReadJson(*reference / "tokenizers" / "small_kimi_k2_bf16.json");
  ExpectReference(**tokenizer, EncodedTexts(golden), "Kimi without its pattern file");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace halfmoon::text
