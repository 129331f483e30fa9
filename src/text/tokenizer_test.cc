// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <gmock/gmock.h>

#include <fstream>
#include <thread>

#include "text/test_vocabularies.h"
#include "text/textcore_bridge.h"

namespace halfmoon::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Expects FromJson to refuse `text` with `code` and a message that contains `part`.
void ExpectRefused(const std::string& text, ErrorCode code, const std::string& part) {
  const auto tokenizer = Tokenizer::FromJson(text);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code(), code) << tokenizer.error().message();
  EXPECT_THAT(tokenizer.error().message(), HasSubstr(part));
}

TEST(Tokenizer, ByteLevel_MergesByRankAndDecodesBack) {
  const auto t = Load(ByteLevelTokenizerJson());
  EXPECT_THAT(EncodeOrFail(*t, "hello ab"), ElementsAre(260, 'o', 256, 'b'));
  EXPECT_THAT(EncodeOrFail(*t, "ab"), ElementsAre(257));
  EXPECT_THAT(EncodeOrFail(*t, "\xC3\xA9"), ElementsAre(0xC3, 0xA9));
  EXPECT_THAT(EncodeOrFail(*t, ""), ElementsAre());
  const std::string text = "hell \xF0\x9F\x98\x80\n\t a12";
  EXPECT_EQ(t->Decode(EncodeOrFail(*t, text)), text);
  EXPECT_EQ(t->vocab_size(), 264);
}

TEST(Tokenizer, SentencePiece_PrependsASpaceAndFallsBackToBytes) {
  const auto t = Load(SentencePieceTokenizerJson());
  EXPECT_THAT(EncodeOrFail(*t, "ab a"), ElementsAre(264, 262));
  EXPECT_THAT(EncodeOrFail(*t, "\xC3\xA9"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(t->Decode(EncodeOrFail(*t, "ab a \xC3\xA9")), "ab a \xC3\xA9");
  EXPECT_EQ(t->Decode(EncodeOrFail(*t, "  ab")), "  ab");
}

TEST(Tokenizer, SpecialTokensInText_AreParsedOnlyWhenAsked) {
  const auto t = Load(ByteLevelTokenizerJson());
  EXPECT_THAT(EncodeOrFail(*t, "a<|end|>ab"), ElementsAre('a', 261, 257));
  const auto literal = EncodeOrFail(*t, "a<|end|>ab", {.parse_special = false});
  EXPECT_EQ(literal.size(), 1u + 7u + 1u) << "seven bytes instead of the token";
  EXPECT_EQ(t->Decode(literal), "a<|end|>ab");
}

TEST(Tokenizer, AddedTokensThatAreNotSpecial_AreAlwaysParsed) {
  const auto t = Load(ByteLevelTokenizerJson());
  EXPECT_THAT(EncodeOrFail(*t, "<think>a"), ElementsAre(263, 'a'));
  EXPECT_THAT(EncodeOrFail(*t, "<think>a", {.parse_special = false}), ElementsAre(263, 'a'));
  EXPECT_TRUE(t->IsSpecial(261));
  EXPECT_FALSE(t->IsSpecial(263));
  EXPECT_FALSE(t->IsSpecial(-1));
  EXPECT_FALSE(t->IsSpecial(264));
}

TEST(Tokenizer, LongestAddedToken_Wins) {
  json::object file = ByteLevelTokenizerJson();
  file["added_tokens"].as_array().push_back(AddedToken(264, "<think>\n", true));
  const auto t = Load(file);
  EXPECT_THAT(EncodeOrFail(*t, "<think>\na"), ElementsAre(264, 'a'));
  EXPECT_THAT(EncodeOrFail(*t, "<think>a"), ElementsAre(263, 'a'));
}

TEST(Tokenizer, AddedTokenIdsWithGaps_AreKept) {
  json::object file = ByteLevelTokenizerJson();
  file["added_tokens"] = json::array{AddedToken(300, "<|far|>", true)};
  const auto t = Load(file);
  EXPECT_THAT(EncodeOrFail(*t, "<|far|>"), ElementsAre(300));
  EXPECT_EQ(t->vocab_size(), 301);
  EXPECT_EQ(t->TokenBytes(299), "") << "an id that nothing has";
  EXPECT_EQ(t->Decode(std::vector<int32_t>{299, 'a'}), "a");
}

TEST(Tokenizer, TokenBytes_AreRawBytes) {
  const auto t = Load(ByteLevelTokenizerJson());
  EXPECT_EQ(t->TokenBytes(0xFF), "\xFF");
  EXPECT_EQ(t->TokenBytes(' '), " ");
  EXPECT_EQ(t->TokenBytes(256), " a");
  EXPECT_EQ(t->TokenBytes(261), "<|end|>");
  EXPECT_EQ(t->TokenBytes(-5), "");
  EXPECT_EQ(t->TokenBytes(264), "");
  const auto pieces = Load(SentencePieceTokenizerJson());
  EXPECT_EQ(pieces->TokenBytes(3 + 0xE4), "\xE4");
  EXPECT_EQ(pieces->TokenBytes(264), " ab");
}

TEST(Tokenizer, TokenId_FindsSpellings) {
  const auto t = Load(ByteLevelTokenizerJson());
  EXPECT_EQ(t->TokenId("<|end|>"), 261);
  EXPECT_EQ(t->TokenId("hell"), 260);
  EXPECT_EQ(t->TokenId("no such token"), std::nullopt);
  EXPECT_EQ(t->TokenId("\xFF"), std::nullopt);
}

TEST(Tokenizer, Config_DecidesAboutBosAndEos) {
  const json::object file = ByteLevelTokenizerJson();
  const auto plain =
      Load(file, R"({"bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}})");
  EXPECT_EQ(plain->bos_id(), 262);
  EXPECT_THAT(plain->eos_ids(), ElementsAre(261));
  EXPECT_EQ(plain->bos_token(), "<|start|>");
  EXPECT_EQ(plain->eos_token(), "<|end|>");
  EXPECT_THAT(EncodeOrFail(*plain, "ab"), ElementsAre(257));

  const auto adding = Load(file, R"({"bos_token": "<|start|>", "eos_token": "<|end|>",
                                     "add_bos_token": true, "add_eos_token": true})");
  EXPECT_THAT(EncodeOrFail(*adding, "ab"), ElementsAre(262, 257, 261));
  EXPECT_THAT(EncodeOrFail(*adding, "ab", {.add_special_tokens = false}), ElementsAre(257));
  EXPECT_THAT(EncodeOrFail(*adding, ""), ElementsAre(262, 261));
}

TEST(Tokenizer, PostProcessor_SurroundsTheTextUnlessTheConfigSaysNo) {
  json::object file = ByteLevelTokenizerJson();
  const json::object start = {{"SpecialToken", json::object{{"id", "<|start|>"}, {"type_id", 0}}}};
  const json::object text = {{"Sequence", json::object{{"id", "A"}, {"type_id", 0}}}};
  file["post_processor"] = json::object{
      {"type", "TemplateProcessing"},
      {"single", json::array{start, text}},
      {"pair", json::array{start, text}},
      {"special_tokens",
       json::object{{"<|start|>", json::object{{"id", "<|start|>"},
                                               {"ids", json::array{262}},
                                               {"tokens", json::array{"<|start|>"}}}}}}};
  EXPECT_THAT(EncodeOrFail(*Load(file), "ab"), ElementsAre(262, 257));
  EXPECT_THAT(
      EncodeOrFail(*Load(file, R"({"bos_token": "<|start|>", "add_bos_token": true})"), "ab"),
      ElementsAre(262, 257))
      << "not twice";
  EXPECT_THAT(
      EncodeOrFail(*Load(file, R"({"bos_token": "<|start|>", "add_bos_token": false})"), "ab"),
      ElementsAre(257));
}

TEST(Tokenizer, TextThatIsNotUtf8_IsRefusedWithItsOffset) {
  const auto t = Load(ByteLevelTokenizerJson());
  const auto ids = t->Encode("ab\xFF");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(ids.error().message(), HasSubstr("byte 2"));
}

TEST(Tokenizer, BadFiles_AreRefusedByName) {
  ExpectRefused("", ErrorCode::kCorrupt, "EOF");
  ExpectRefused("{}", ErrorCode::kCorrupt, "model");
  ExpectRefused("[1, 2", ErrorCode::kCorrupt, "");
  ExpectRefused(std::string(100000, '['), ErrorCode::kCorrupt, "");
  ExpectRefused(R"({"model": {"type": "Unigram", "vocab": []}})", ErrorCode::kUnsupported,
                "Unigram");

  json::object file = ByteLevelTokenizerJson();
  file["decoder"] = json::object{{"type", "CTC"}};
  ExpectRefused(json::Serialize(file), ErrorCode::kUnsupported, "CTC");
  file["decoder"] = nullptr;
  ExpectRefused(json::Serialize(file), ErrorCode::kUnsupported, "none");

  file = ByteLevelTokenizerJson();
  file["model"].as_object()["merges"].as_array().push_back(json::array{"a", "nowhere"});
  ExpectRefused(json::Serialize(file), ErrorCode::kCorrupt, "nowhere");

  file = ByteLevelTokenizerJson();
  file["model"].as_object()["merges"].as_array().push_back("three of them");
  ExpectRefused(json::Serialize(file), ErrorCode::kCorrupt, "three of them");

  file = ByteLevelTokenizerJson();
  file["model"].as_object()["vocab"].as_object()["huge"] = 4000000000;
  ExpectRefused(json::Serialize(file), ErrorCode::kCorrupt, "4000000000");

  file = ByteLevelTokenizerJson();
  file["added_tokens"].as_array().push_back(AddedToken(400, "hell", true));
  ExpectRefused(json::Serialize(file), ErrorCode::kCorrupt, "two ids");

  file = ByteLevelTokenizerJson();
  file["pre_tokenizer"] = json::object{{"type", "Split"},
                                       {"pattern", json::object{{"Regex", "(unclosed"}}},
                                       {"behavior", "Isolated"},
                                       {"invert", false}};
  ExpectRefused(json::Serialize(file), ErrorCode::kCorrupt, "pre_tokenizer");

  file = ByteLevelTokenizerJson();
  file["version"] = "7.0";
  ExpectRefused(json::Serialize(file), ErrorCode::kUnsupported, "7.0");
}

TEST(Tokenizer, TruncatedFile_IsRefusedAtAnyLength) {
  const std::string text = json::Serialize(SentencePieceTokenizerJson());
  for (size_t size = 0; size < text.size(); size += 97) {
    EXPECT_FALSE(Tokenizer::FromJson(text.substr(0, size)).ok()) << size;
  }
}

TEST(Tokenizer, BadConfig_IsRefusedByName) {
  const std::string file = json::Serialize(ByteLevelTokenizerJson());
  const auto broken = Tokenizer::FromJson(file, "{");
  ASSERT_FALSE(broken.ok());
  EXPECT_THAT(broken.error().message(), HasSubstr("tokenizer_config.json"));
  EXPECT_FALSE(Tokenizer::FromJson(file, R"({"bos_token": 3})").ok());
  EXPECT_FALSE(Tokenizer::FromJson(file, R"({"add_bos_token": "yes"})").ok());
}

TEST(Tokenizer, ManyThreads_AgreeOnIds) {
  const auto t = Load(ByteLevelTokenizerJson());
  const std::string text = "hello ab <think> hell<|end|> \xE4\xB8\x96";
  const auto expected = EncodeOrFail(*t, text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        const auto ids = t->Encode(text);
        if (!ids.ok() || *ids != expected || t->Decode(*ids) != text) ++wrong[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

class TokenizerFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, std::string_view content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  std::filesystem::path folder_;
};

TEST_F(TokenizerFolder, TokenizerJsonWithConfigs_IsRead) {
  Write("tokenizer.json", json::Serialize(ByteLevelTokenizerJson()));
  Write("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  Write("generation_config.json", R"({"eos_token_id": [262, 261, 262]})");
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_TRUE(t.ok()) << t.error().message();
  EXPECT_THAT((*t)->eos_ids(), ElementsAre(261, 262));
}

TEST_F(TokenizerFolder, WithoutTokenizer_IsNotFound) {
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_FALSE(t.ok());
  EXPECT_EQ(t.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(t.error().message(), HasSubstr(folder_.string()));
}

TEST_F(TokenizerFolder, BadGenerationConfig_IsRefusedByName) {
  Write("tokenizer.json", json::Serialize(ByteLevelTokenizerJson()));
  Write("generation_config.json", R"({"eos_token_id": "two"})");
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_FALSE(t.ok());
  EXPECT_THAT(t.error().message(), HasSubstr("generation_config.json"));
}

TEST_F(TokenizerFolder, TiktokenModel_MergesByRankOfTheResult) {
  // "a" 0, "b" 1, " " 2, "ab" 3, "abb" 4, "bb" 5.
  Write("tiktoken.model", "YQ== 0\nYg== 1\nIA== 2\nYWI= 3\nYWJi 4\nYmI= 5\n");
  Write(
      "tokenizer_config.json",
      R"({"eos_token": "[EOS]", "added_tokens_decoder": {"9": {"content": "[EOS]", "special": true}}})");
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_TRUE(t.ok()) << t.error().message();
  EXPECT_THAT(EncodeOrFail(**t, "abb"), ElementsAre(4));
  EXPECT_THAT(EncodeOrFail(**t, "abbb"), ElementsAre(4, 1));
  EXPECT_THAT(EncodeOrFail(**t, "bbb[EOS]"), ElementsAre(5, 1, 9));
  EXPECT_THAT((*t)->eos_ids(), ElementsAre(9));
  EXPECT_EQ((*t)->Decode(std::vector<int32_t>{4, 2, 9}), "abb [EOS]");

  Write("tiktoken.model", "YQ== 0\nnot base64! 1\n");
  const auto broken = Tokenizer::LoadFromFolder(folder_);
  ASSERT_FALSE(broken.ok());
  EXPECT_THAT(broken.error().message(), HasSubstr("line 2"));
}

TEST_F(TokenizerFolder, TiktokenPattern_ReplacesKimis) {
  Write("tiktoken.model", "YQ== 0\nYg== 1\nYWI= 2\n");
  Write("tiktoken_pattern.json", R"({"pattern": "a|b"})");
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_TRUE(t.ok()) << t.error().message();
  EXPECT_THAT(EncodeOrFail(**t, "ab"), ElementsAre(0, 1));
  for (const char* wrong : {R"({"pattern": "("})", "{}", "no"}) {
    Write("tiktoken_pattern.json", wrong);
    const auto broken = Tokenizer::LoadFromFolder(folder_);
    ASSERT_FALSE(broken.ok()) << wrong;
    EXPECT_EQ(broken.error().code(), ErrorCode::kCorrupt) << broken.error().message();
  }
}

TEST_F(TokenizerFolder, TiktokenModel_CutsLongText) {
  // "a" 0, "b" 1, " " 2, "aa" 3, "ab" 4.
  Write("tiktoken.model", "YQ== 0\nYg== 1\nIA== 2\nYWE= 3\nYWI= 4\n");
  const auto t = Tokenizer::LoadFromFolder(folder_);
  ASSERT_TRUE(t.ok()) << t.error().message();
  const std::string run(24'999, 'a');
  const std::vector<int32_t> whole = EncodeOrFail(**t, "b" + run);
  EXPECT_EQ(whole.size(), 1 + 12'499 + 1u);
  // One character more would be another "aa", but a run ends after 25 000 characters.
  std::vector<int32_t> cut = EncodeOrFail(**t, "b" + run + "a");
  EXPECT_EQ(cut.size(), whole.size() + 1);
  EXPECT_EQ(cut.back(), 0);
  // White space ends a run as well.
  EXPECT_EQ(EncodeOrFail(**t, "b aa" + run).size(), 2 + 12'500 + 1u);

  // A text of short runs is cut after 400 000 characters: between the "a" and the "b" of one word.
  std::string words;
  while (words.size() < 400'002) words += "ab ";
  const std::vector<int32_t> ids = EncodeOrFail(**t, words);
  EXPECT_EQ(ids.size(), words.size() / 3 * 2 + 1);
  EXPECT_EQ((*t)->Decode(ids), words);
}

TEST(Textcore, Panic_EndsAtTheBoundary) {
  OwnedBytes error;
  EXPECT_EQ(textcore_provoke_panic(error.out()), TEXTCORE_INTERNAL);
  EXPECT_EQ(error.view(), "panic: provoked");
  EXPECT_EQ(textcore_provoke_panic(nullptr), TEXTCORE_INTERNAL);
}

}  // namespace
}  // namespace halfmoon::text
