// SPDX-License-Identifier: Apache-2.0
#include "text/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "text/test_vocabularies.h"

namespace halfmoon::text {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";

TEST(StreamDecoder, CharacterCutByTokens_IsHeldBackUntilComplete) {
  const auto tokenizer = Load(ByteLevelTokenizerJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoder, InvalidBytes_ComeOutAsReplacements) {
  const auto tokenizer = Load(ByteLevelTokenizerJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(0xE4), "");
  EXPECT_EQ(decoder.Push('x'), kReplacement + "x");
  EXPECT_EQ(decoder.Push(0xFF), kReplacement);
  EXPECT_EQ(decoder.Push(0xC3), "");
  EXPECT_EQ(decoder.Finish(), kReplacement);
  EXPECT_EQ(decoder.Finish(), "") << "as new after Finish";
}

TEST(StreamDecoder, SpecialTokens_AreSkippedOnlyWhenAsked) {
  const auto tokenizer = Load(ByteLevelTokenizerJson());
  StreamDecoder keeping(*tokenizer), skipping(*tokenizer, {.skip_special = true});
  std::string kept, skipped;
  for (const int32_t id : {260, 261, 263, 262}) {
    kept += keeping.Push(id);
    skipped += skipping.Push(id);
  }
  EXPECT_EQ(kept, "hell<|end|><think><|start|>");
  EXPECT_EQ(skipped, "hell<think>") << "<think> is no special token";
}

TEST(StreamDecoder, SentencePiece_LosesTheFirstSpaceOnly) {
  const auto tokenizer = Load(SentencePieceTokenizerJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(264), "ab");
  EXPECT_EQ(decoder.Push(264), " ab");
  EXPECT_EQ(decoder.Push(259), " ");
  decoder.Finish();
  EXPECT_EQ(decoder.Push(259), "") << "a new text begins";
  EXPECT_EQ(decoder.Push(262), " a");
}

TEST(StreamDecoder, SentencePieceBytes_FormCharacters) {
  const auto tokenizer = Load(SentencePieceTokenizerJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(3 + 0xE4), "");
  EXPECT_EQ(decoder.Push(3 + 0xB8), "");
  EXPECT_EQ(decoder.Push(3 + 0x96), "\xE4\xB8\x96");
}

TEST(StreamDecoder, IdsOutsideTheVocabulary_AddNothing) {
  const auto tokenizer = Load(ByteLevelTokenizerJson());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(0xC3), "");
  EXPECT_EQ(decoder.Push(-1), "");
  EXPECT_EQ(decoder.Push(1 << 30), "");
  EXPECT_EQ(decoder.Push(0xA9), "\xC3\xA9") << "and do not disturb what is held back";
}

TEST(StreamDecoder, AnyIds_GiveTheTextOfDecode) {
  std::mt19937 random(7);
  for (const auto& tokenizer :
       {Load(ByteLevelTokenizerJson()), Load(SentencePieceTokenizerJson())}) {
    for (int round = 0; round < 200; ++round) {
      std::vector<int32_t> ids(random() % 40);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % 270);
      for (const bool skip : {false, true}) {
        StreamDecoder decoder(*tokenizer, {.skip_special = skip});
        std::string streamed;
        for (const int32_t id : ids) streamed += decoder.Push(id);
        streamed += decoder.Finish();
        EXPECT_EQ(streamed, tokenizer->Decode(ids, {.skip_special = skip}));
      }
    }
  }
}

}  // namespace
}  // namespace halfmoon::text
