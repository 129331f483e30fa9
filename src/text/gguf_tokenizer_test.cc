// SPDX-License-Identifier: Apache-2.0
// Tokenizers from GGUF metadata: small vocabularies whose ids can be read off. Equality with the
// published tokenizers is tokenizer_reference_test.cc.
#include <gmock/gmock.h>

#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace halfmoon::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ids 0..255 the bytes, "ab" 256, "abc" 257, "<|end|>" 258 (control), "<tool>" 259 (user-defined),
// "12" 260.
GgufTokenizerSpec ByteLevelSpec(const std::string& pre = "gpt-2") {
  GgufTokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = pre;
  for (int b = 0; b < 256; ++b) spec.tokens.push_back(ByteLevelSpelling(static_cast<uint8_t>(b)));
  for (const char* token : {"ab", "abc", "<|end|>", "<tool>", "12"}) spec.tokens.push_back(token);
  spec.token_types.assign(spec.tokens.size(), 1);
  spec.token_types[258] = 3;
  spec.token_types[259] = 4;
  spec.merges = {"a b", "ab c", "1 2"};
  spec.eos_id = 258;
  return spec;
}

// "<unk>" 0, "<s>" 1, "</s>" 2, bytes 3..258, "▁" 259, "a" 260, "b" 261, "ab" 262 (score -1), "▁a"
// 263 (score -2), "▁ab" 264 (score -3).
GgufTokenizerSpec SentencePieceSpec() {
  const std::string underline = "\xE2\x96\x81";
  GgufTokenizerSpec spec;
  spec.model = "llama";
  spec.tokens = {"<unk>", "<s>", "</s>"};
  spec.token_types = {2, 3, 3};
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    spec.tokens.push_back("<0x" + std::string{kHex[b / 16], kHex[b % 16]} + ">");
    spec.token_types.push_back(6);
  }
  for (const std::string& token : {underline, std::string("a"), std::string("b"), std::string("ab"),
                                   underline + "a", underline + "ab"}) {
    spec.tokens.push_back(token);
    spec.token_types.push_back(1);
  }
  spec.scores.assign(spec.tokens.size(), -100);
  spec.scores[262] = -1;
  spec.scores[263] = -2;
  spec.scores[264] = -3;
  spec.unknown_id = 0;
  spec.bos_id = 1;
  spec.eos_id = 2;
  return spec;
}

std::unique_ptr<Tokenizer> FromSpec(const GgufTokenizerSpec& spec) {
  auto tokenizer = Tokenizer::FromGguf(spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

void ExpectRefused(const GgufTokenizerSpec& spec, ErrorCode code, const std::string& part) {
  const auto tokenizer = Tokenizer::FromGguf(spec);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code(), code);
  EXPECT_THAT(tokenizer.error().message(), HasSubstr(part));
}

TEST(GgufTokenizer, ByteLevel_EncodesAndDecodes) {
  const auto t = FromSpec(ByteLevelSpec());
  EXPECT_THAT(EncodeOrFail(*t, "abc ab<|end|>"), ElementsAre(257, ' ', 256, 258));
  EXPECT_THAT(EncodeOrFail(*t, "<tool>", {.parse_special = false}), ElementsAre(259));
  EXPECT_TRUE(t->IsSpecial(258));
  EXPECT_FALSE(t->IsSpecial(259));
  EXPECT_EQ(t->Decode(std::vector<int32_t>{257, 258, 0xE4, 0xB8, 0x96}), "abc<|end|>\xE4\xB8\x96");
  EXPECT_THAT(t->eos_ids(), ElementsAre(258));
  EXPECT_EQ(t->eos_token(), "<|end|>");
  EXPECT_EQ(t->bos_id(), std::nullopt);
}

TEST(GgufTokenizer, PreTokenizer_DecidesHowDigitsAreCut) {
  EXPECT_THAT(EncodeOrFail(*FromSpec(ByteLevelSpec("gpt-2")), "12"), ElementsAre(260));
  EXPECT_THAT(EncodeOrFail(*FromSpec(ByteLevelSpec("smollm")), "12"), ElementsAre('1', '2'));
  EXPECT_THAT(EncodeOrFail(*FromSpec(ByteLevelSpec("qwen2")), "12"), ElementsAre('1', '2'));
  EXPECT_THAT(EncodeOrFail(*FromSpec(ByteLevelSpec("deepseek-v3")), "12"), ElementsAre(260));
  EXPECT_THAT(EncodeOrFail(*FromSpec(ByteLevelSpec("deepseek-v3")), "1112"),
              ElementsAre('1', '1', '1', '2'));
}

TEST(GgufTokenizer, EveryKnownPreTokenizer_Compiles) {
  for (const char* pre :
       {"", "default", "gpt-2", "smollm", "starcoder", "refact", "llama3", "llama-bpe", "glm4",
        "chatglm-bpe", "qwen2", "deepseek-r1-qwen", "deepseek-v3", "bailingmoe", "bailingmoe2",
        "gpt-4o", "minimax-m2", "kimi-k2"}) {
    const auto t = FromSpec(ByteLevelSpec(pre));
    ASSERT_NE(t, nullptr) << pre;
    const std::string text = "It's 12 o'clock, \xE4\xB8\x96\xE7\x95\x8C!\n\n  x";
    EXPECT_EQ(t->Decode(EncodeOrFail(*t, text, {.add_special_tokens = false})), text) << pre;
  }
}

TEST(GgufTokenizer, Qwen2_NormalisesToComposedCharacters) {
  const auto t = FromSpec(ByteLevelSpec("qwen2"));
  EXPECT_THAT(EncodeOrFail(*t, "e\xCC\x81"), ElementsAre(0xC3, 0xA9));
}

TEST(GgufTokenizer, Llama3_AddsBosUnlessTheFileSaysNo) {
  GgufTokenizerSpec spec = ByteLevelSpec("llama-bpe");
  spec.bos_id = 258;
  EXPECT_THAT(EncodeOrFail(*FromSpec(spec), "ab"), ElementsAre(258, 256));
  spec.add_bos = false;
  EXPECT_THAT(EncodeOrFail(*FromSpec(spec), "ab"), ElementsAre(256));
  spec.add_eos = true;
  EXPECT_THAT(EncodeOrFail(*FromSpec(spec), "ab"), ElementsAre(256, 258));
}

TEST(GgufTokenizer, SentencePiece_MergesByScore) {
  const auto t = FromSpec(SentencePieceSpec());
  // "▁ab": "ab" scores higher than "▁a", then "▁" + "ab".
  EXPECT_THAT(EncodeOrFail(*t, "ab"), ElementsAre(1, 264));
  EXPECT_THAT(EncodeOrFail(*t, "a", {.add_special_tokens = false}), ElementsAre(263));
  EXPECT_THAT(EncodeOrFail(*t, "aab", {.add_special_tokens = false}), ElementsAre(263, 262));
  EXPECT_THAT(EncodeOrFail(*t, "\xC3\xA9", {.add_special_tokens = false}),
              ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(t->Decode(EncodeOrFail(*t, "ab \xC3\xA9"), {.skip_special = true}), "ab \xC3\xA9");
}

TEST(GgufTokenizer, SentencePieceWithoutSpacePrefix_KeepsTextAsItIs) {
  GgufTokenizerSpec spec = SentencePieceSpec();
  spec.add_space_prefix = false;
  spec.add_bos = false;
  const auto t = FromSpec(spec);
  EXPECT_THAT(EncodeOrFail(*t, "ab"), ElementsAre(262));
  EXPECT_EQ(t->Decode(EncodeOrFail(*t, " ab")), " ab");
}

TEST(GgufTokenizer, UnknownNames_AreNamed) {
  ExpectRefused(ByteLevelSpec("martian-9"), ErrorCode::kUnsupported, "martian-9");
  GgufTokenizerSpec spec = ByteLevelSpec();
  spec.model = "bert";
  ExpectRefused(spec, ErrorCode::kUnsupported, "bert");
}

TEST(GgufTokenizer, TablesThatContradictEachOther_AreRefused) {
  GgufTokenizerSpec spec = ByteLevelSpec();
  spec.tokens.clear();
  spec.eos_id.reset();
  spec.token_types.clear();
  ExpectRefused(spec, ErrorCode::kCorrupt, "0 tokens");

  spec = ByteLevelSpec();
  spec.token_types.pop_back();
  ExpectRefused(spec, ErrorCode::kCorrupt, "token types");

  spec = ByteLevelSpec();
  spec.merges.clear();
  ExpectRefused(spec, ErrorCode::kCorrupt, "merges");

  spec = ByteLevelSpec();
  spec.merges.push_back("single");
  ExpectRefused(spec, ErrorCode::kCorrupt, "single");

  spec = ByteLevelSpec();
  spec.merges.push_back("a nowhere");
  ExpectRefused(spec, ErrorCode::kCorrupt, "nowhere");

  spec = ByteLevelSpec();
  spec.tokens[5] = "\xFF\xFE";
  ExpectRefused(spec, ErrorCode::kCorrupt, "token 5");

  spec = ByteLevelSpec();
  spec.eos_id = 100000;
  ExpectRefused(spec, ErrorCode::kCorrupt, "100000");
  spec.eos_id = -1;
  ExpectRefused(spec, ErrorCode::kCorrupt, "eos");

  spec = SentencePieceSpec();
  spec.scores.pop_back();
  ExpectRefused(spec, ErrorCode::kCorrupt, "scores");

  spec = SentencePieceSpec();
  spec.unknown_id = 1 << 20;
  ExpectRefused(spec, ErrorCode::kCorrupt, "unknown");
}

TEST(GgufTokenizer, TokensThatOccurTwice_KeepTheirFirstId) {
  GgufTokenizerSpec spec = ByteLevelSpec();
  spec.tokens.push_back("abc");
  spec.tokens.push_back("<|end|>");
  spec.token_types.push_back(1);
  spec.token_types.push_back(3);
  const auto t = FromSpec(spec);
  EXPECT_THAT(EncodeOrFail(*t, "abc<|end|>"), ElementsAre(257, 258));
}

}  // namespace
}  // namespace halfmoon::text
