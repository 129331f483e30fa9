// SPDX-License-Identifier: Apache-2.0
#include "serve/grammar_state.h"

#include <gtest/gtest.h>

#include "serve/test_support.h"

namespace halfmoon::serve::testing {
namespace {

std::shared_ptr<GrammarState> MakeState(std::string_view regex) {
  const auto tokenizer = MakeByteTokenizer();
  auto compiler = text::GrammarCompiler::Create(*tokenizer);
  EXPECT_TRUE(compiler.ok());
  auto matcher = compiler->Compile(text::GrammarKind::kRegex, regex);
  EXPECT_TRUE(matcher.ok());
  return std::make_shared<GrammarState>(std::move(*matcher), compiler->mask_words(),
                                        std::vector<int32_t>{kEndId});
}

std::vector<int32_t> Allowed(const engine::Request& request,
                             size_t num_words = (kVocabSize + 31) / 32) {
  std::vector<uint32_t> words(num_words, ~0u);
  request.mask(words);
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < static_cast<int32_t>(num_words * 32); ++id) {
    if ((words[static_cast<size_t>(id) / 32] >> (id % 32)) & 1) ids.push_back(id);
  }
  return ids;
}

TEST(GrammarState, Tokens_MoveTheMaskOn) {
  engine::Request request;
  const auto state = MakeState("ab");
  GrammarState::Attach(state, request);
  EXPECT_EQ(Allowed(request), std::vector<int32_t>{'a'});
  request.on_token('a');
  EXPECT_EQ(Allowed(request), std::vector<int32_t>{'b'});
  request.on_token('b');
  EXPECT_EQ(Allowed(request), std::vector<int32_t>{kEndId});
  request.on_token(kEndId);
  EXPECT_EQ(state->failure(), std::nullopt);
}

TEST(GrammarState, TokenOutsideTheGrammar_LeavesOnlyTheEnd) {
  engine::Request request;
  const auto state = MakeState("ab");
  GrammarState::Attach(state, request);
  request.on_token('x');
  EXPECT_TRUE(state->failure());
  EXPECT_EQ(Allowed(request), std::vector<int32_t>{kEndId});
}

TEST(GrammarState, MaskShorterThanTheVocabulary_GetsItsPart) {
  engine::Request request;
  const auto state = MakeState("[Aa]b");
  GrammarState::Attach(state, request);
  EXPECT_EQ(Allowed(request, 3), std::vector<int32_t>{'A'});  // ids 0 to 95
  EXPECT_EQ(Allowed(request), (std::vector<int32_t>{'A', 'a'}));
  EXPECT_EQ(Allowed(request, 20), (std::vector<int32_t>{'A', 'a'}));
  EXPECT_EQ(state->failure(), std::nullopt);
}

}  // namespace
}  // namespace halfmoon::serve::testing
