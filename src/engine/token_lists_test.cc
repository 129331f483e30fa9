// SPDX-License-Identifier: Apache-2.0
#include "engine/token_lists.h"

#include <gtest/gtest.h>

namespace halfmoon::engine {
namespace {

std::string ErrorOf(std::string_view text) {
  const auto lists = ParseTokenLists(text, 100);
  return lists.ok() ? "" : lists.error().message();
}

TEST(TokenLists, Parse_Lists_InOrder) {
  const auto lists = ParseTokenLists(" [[1, 2, 99], [0]] ", 100);
  ASSERT_TRUE(lists.ok());
  EXPECT_EQ(*lists, (std::vector<std::vector<int32_t>>{{1, 2, 99}, {0}}));
  EXPECT_TRUE(ParseTokenLists("[]", 100)->empty());
}

TEST(TokenLists, Parse_Malformed_NamesListAndPosition) {
  EXPECT_NE(ErrorOf("[[1],[2,100]]").find("list 1: position 1: expected a token id below 100"),
            std::string::npos);
  EXPECT_NE(ErrorOf("[[1],[-1]]").find("list 1: position 0"), std::string::npos);
  EXPECT_NE(ErrorOf("[[1.5]]").find("found 1.5"), std::string::npos);
  EXPECT_NE(ErrorOf("[[]]").find("list 0: is empty"), std::string::npos);
  EXPECT_NE(ErrorOf("[1, 2]").find("list 0: expected a list of token ids, found number"),
            std::string::npos);
  EXPECT_NE(ErrorOf("{}").find("found object"), std::string::npos);
  EXPECT_NE(ErrorOf("[[1]").find("not JSON"), std::string::npos);
}

TEST(TokenLists, Read_MissingFile_NamesIt) {
  const auto lists = ReadTokenLists("no-such-file.json", 100);
  ASSERT_FALSE(lists.ok());
  EXPECT_EQ(lists.error().code(), ErrorCode::kNotFound);
  EXPECT_NE(lists.error().message().find("no-such-file.json"), std::string::npos);
}

}  // namespace
}  // namespace halfmoon::engine
