// SPDX-License-Identifier: Apache-2.0
#include "text/grammar.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "text/test_vocabularies.h"

namespace halfmoon::text {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kEnd = 261, kStart = 262;

std::unique_ptr<Tokenizer> Vocabulary() {
  return Load(ByteLevelTokenizerJson(), R"({"eos_token": "<|end|>"})");
}

GrammarCompiler Compiler(const Tokenizer& tokenizer) {
  auto compiler = GrammarCompiler::Create(tokenizer);
  EXPECT_TRUE(compiler.ok()) << compiler.error().message();
  return std::move(compiler).value();
}

GrammarMatcher Matcher(const GrammarCompiler& compiler, GrammarKind kind, std::string_view source) {
  auto matcher = compiler.Compile(kind, source);
  EXPECT_TRUE(matcher.ok()) << matcher.error().message();
  return std::move(matcher).value();
}

std::vector<int32_t> Allowed(const GrammarCompiler& compiler, GrammarMatcher& matcher) {
  std::vector<uint32_t> mask(compiler.mask_words(), ~0u);
  const Status status = matcher.ComputeMask(mask);
  EXPECT_TRUE(status.ok()) << status.error().message();
  std::vector<int32_t> ids;
  for (size_t id = 0; id < mask.size() * 32; ++id) {
    if ((mask[id / 32] >> (id % 32) & 1) != 0) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

TEST(Grammar, Regex_AllowsWhatMayFollow) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  GrammarMatcher matcher = Matcher(compiler, GrammarKind::kRegex, "(ab|he)x?");
  EXPECT_FALSE(matcher.IsAccepting());
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre('a', 'h', 257, 258));
  ASSERT_TRUE(matcher.Commit(257).ok());
  EXPECT_TRUE(matcher.IsAccepting());
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre('x', kEnd));
  ASSERT_TRUE(matcher.Commit('x').ok());
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre(kEnd));
  ASSERT_TRUE(matcher.Commit(kEnd).ok());
  EXPECT_TRUE(matcher.IsStopped());
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre(kEnd))
      << "nothing but the end after the end";
  EXPECT_FALSE(matcher.Commit('x').ok());
}

TEST(Grammar, TokenThatDoesNotFit_IsRefusedAndChangesNothing) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  GrammarMatcher matcher = Matcher(compiler, GrammarKind::kRegex, "[ab]+");
  for (const int32_t bad : {static_cast<int32_t>('x'), kEnd, kStart, -1, 1 << 20}) {
    const Status status = matcher.Commit(bad);
    ASSERT_FALSE(status.ok()) << bad;
    EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
  }
  EXPECT_TRUE(matcher.Commit('a').ok());
}

TEST(Grammar, JsonSchema_AnyAllowedPathParsesAsJson) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  constexpr std::string_view kSchema = R"({
    "$defs": {"point": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}},
    "type": "object", "additionalProperties": false, "required": ["kind", "at"],
    "properties": {"kind": {"enum": ["ab", "hell"]}, "at": {"$ref": "#/$defs/point"}, "ok": {"type": "boolean"}}})";
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    GrammarMatcher matcher = Matcher(compiler, GrammarKind::kJsonSchema, kSchema);
    std::vector<int32_t> ids;
    while (!matcher.IsStopped() && ids.size() < 400) {
      const std::vector<int32_t> allowed = Allowed(compiler, matcher);
      ASSERT_FALSE(allowed.empty());
      // The end as soon as it may come: white space and digits could go on for ever.
      const bool may_end = std::find(allowed.begin(), allowed.end(), kEnd) != allowed.end();
      const int32_t id = may_end ? kEnd : allowed[random() % allowed.size()];
      ASSERT_TRUE(matcher.Commit(id).ok());
      ids.push_back(id);
    }
    if (!matcher.IsStopped()) continue;
    const std::string text = tokenizer->Decode(ids, {.skip_special = true});
    const auto object = json::ParseObject(text);
    ASSERT_TRUE(object.ok()) << text;
    EXPECT_EQ(object->at("at").as_array().size(), 2u) << text;
    EXPECT_TRUE(object->at("kind") == "ab" || object->at("kind") == "hell") << text;
  }
}

TEST(Grammar, Lark_MayNameSpecialTokens) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  GrammarMatcher matcher =
      Matcher(compiler, GrammarKind::kLark, "start: \"ab\" <|start|> word\nword: /he+/");
  ASSERT_TRUE(matcher.Commit(257).ok());
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre(kStart));
  ASSERT_TRUE(matcher.Commit(kStart).ok());
  ASSERT_TRUE(matcher.Commit(258).ok());
  EXPECT_TRUE(matcher.IsAccepting());
}

TEST(Grammar, EveryEndOfSequence_EndsTheText) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "grammar_two_ends";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.json") << json::Serialize(ByteLevelTokenizerJson());
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [261, 262]})";
  const auto tokenizer = Tokenizer::LoadFromFolder(folder);
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const GrammarCompiler compiler = Compiler(**tokenizer);
  for (const int32_t end : {kEnd, kStart}) {
    GrammarMatcher matcher = Matcher(compiler, GrammarKind::kRegex, "a?");
    EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre('a', kEnd, kStart));
    ASSERT_TRUE(matcher.Commit(end).ok());
    EXPECT_TRUE(matcher.IsStopped());
  }
}

TEST(Grammar, MaskLengths_AreCheckedAndPadded) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  EXPECT_EQ(compiler.mask_words(), (264u + 31) / 32);
  GrammarMatcher matcher = Matcher(compiler, GrammarKind::kRegex, "a");
  std::vector<uint32_t> mask(compiler.mask_words() + 2, ~0u);
  ASSERT_TRUE(matcher.ComputeMask(mask).ok());
  EXPECT_EQ(mask[compiler.mask_words()], 0u);
  EXPECT_EQ(mask[compiler.mask_words() + 1], 0u);
  const Status too_short = matcher.ComputeMask(std::span(mask).first(1));
  ASSERT_FALSE(too_short.ok());
  EXPECT_EQ(too_short.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_FALSE(matcher.ComputeMask({}).ok());
}

TEST(Grammar, VocabularyOfWholeWords_NeedsNoMoreThanItsWords) {
  // 264 tokens and 24 more: nine words, no bit to spare.
  json::object json = ByteLevelTokenizerJson();
  for (int id = 264; id < 288; ++id) {
    json["added_tokens"].as_array().push_back(
        AddedToken(id, "<|more" + std::to_string(id) + "|>", true));
  }
  const auto tokenizer = Load(json, R"({"eos_token": "<|end|>"})");
  ASSERT_EQ(tokenizer->vocab_size(), 288);
  const GrammarCompiler compiler = Compiler(*tokenizer);
  EXPECT_EQ(compiler.mask_words(), 9u);
  GrammarMatcher matcher = Matcher(compiler, GrammarKind::kRegex, "a");
  EXPECT_THAT(Allowed(compiler, matcher), ::testing::ElementsAre('a'));
}

TEST(Grammar, BadGrammars_AreRefused) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  const auto refuse = [&](GrammarKind kind, std::string_view source) {
    const auto matcher = compiler.Compile(kind, source);
    EXPECT_FALSE(matcher.ok()) << source.substr(0, 50);
    if (matcher.ok()) return;
    EXPECT_FALSE(matcher.error().message().empty());
  };
  refuse(GrammarKind::kRegex, "(unclosed");
  refuse(GrammarKind::kJsonSchema, "{not json");
  refuse(GrammarKind::kJsonSchema, R"({"type": "martian"})");
  refuse(GrammarKind::kJsonSchema, R"({"$ref": "#/nowhere"})");
  refuse(GrammarKind::kJsonSchema, R"({"$ref": "https://example.com/schema"})");
  refuse(GrammarKind::kJsonSchema, std::string(100000, '['));
  refuse(GrammarKind::kLark, "start: nowhere");
  refuse(GrammarKind::kLark, "start: (");
  refuse(GrammarKind::kLark, std::string((size_t{1} << 20) + 1, ' '));
  refuse(GrammarKind::kLark, "start: \xFF");
}

TEST(Grammar, DeeplyNestedGrammars_EndInAnError) {
  const auto tokenizer = Vocabulary();
  const GrammarCompiler compiler = Compiler(*tokenizer);
  EXPECT_FALSE(compiler.Compile(GrammarKind::kLark, "start: " + std::string(200000, '(')).ok());
  EXPECT_FALSE(compiler.Compile(GrammarKind::kRegex, std::string(200000, '(')).ok());
}

TEST(Grammar, TokenizerWithoutEndOfSequence_IsUnsupported) {
  const auto compiler = GrammarCompiler::Create(*Load(ByteLevelTokenizerJson()));
  ASSERT_FALSE(compiler.ok());
  EXPECT_EQ(compiler.error().code(), ErrorCode::kUnsupported);
  EXPECT_THAT(compiler.error().message(), HasSubstr("end-of-sequence"));
}

}  // namespace
}  // namespace halfmoon::text
