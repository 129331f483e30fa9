// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_response.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "serve/test_support.h"

namespace halfmoon::serve::testing {
namespace {

TEST(LogprobJson, OddValues_StayJson) {
  EXPECT_EQ(LogprobJson(-0.1f).as_double(), -0.1);  // not -0.10000000149011612
  EXPECT_EQ(LogprobJson(-std::numeric_limits<float>::infinity()).as_double(), -9999.0);
  EXPECT_TRUE(LogprobJson(std::nanf("")).is_null());
  EXPECT_EQ(LogprobJson(0.0f).to_number<double>(), 0.0);
}

TEST(TokenText, Bytes_AreTextWhereTheyCanBe) {
  const auto tokenizer = MakeByteTokenizer();
  EXPECT_EQ(TokenText(*tokenizer, 'a'), "a");
  EXPECT_EQ(TokenText(*tokenizer, 0xE2), "bytes:\\xe2");
  EXPECT_EQ(TokenText(*tokenizer, kEndId), "<|im_end|>");
  EXPECT_EQ(TokenText(*tokenizer, 100000), "");
  EXPECT_EQ(TokenText(*tokenizer, 'a', /*as_id=*/true), "token_id:97");
}

TEST(CompletionFormat, TextOffsets_GoOnFromPieceToPiece) {
  const auto tokenizer = MakeByteTokenizer();
  ResponseContext context;
  context.tokenizer = tokenizer.get();
  context.stream = true;
  context.logprobs = true;
  const auto format = MakeCompletionFormat(context, 2);
  Piece piece;
  piece.tokens = {Token('a', 1), Token('b', 1)};
  format->Choice(0, piece);
  const json::object second = format->Choice(0, piece);
  EXPECT_EQ(second.at("logprobs").at("text_offset"), (json::array{2, 3}));
  const json::object other = format->Choice(1, piece);
  EXPECT_EQ(other.at("logprobs").at("text_offset"), (json::array{0, 1}));
}

}  // namespace
}  // namespace halfmoon::serve::testing
