// SPDX-License-Identifier: Apache-2.0
#include "text/utf8.h"

#include <gtest/gtest.h>

namespace halfmoon::text {
namespace {

struct Outcome {
  std::string text;
  size_t left;
  bool operator==(const Outcome&) const = default;
};

Outcome Append(std::string_view bytes) {
  Outcome outcome;
  outcome.left = AppendUtf8(bytes, &outcome.text);
  return outcome;
}

TEST(Utf8, ValidText_IsKept) {
  const std::string text = "a\xC3\xA9\xE4\xB8\x96\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF\xED\x9F\xBF";
  EXPECT_EQ(Append(text), (Outcome{text, 0}));
}

TEST(Utf8, CutCharacter_IsLeftOver) {
  EXPECT_EQ(Append("a\xC3"), (Outcome{"a", 1}));
  EXPECT_EQ(Append("\xE4\xB8"), (Outcome{"", 2}));
  EXPECT_EQ(Append("\xF0\x9F\x98"), (Outcome{"", 3}));
}

// The examples of the Unicode standard, tables 3-8 to 3-11: one U+FFFD per maximal subpart.
TEST(Utf8, InvalidBytes_BecomeOneReplacementPerMaximalSubpart) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(Append("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                   "A")
                .text,
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Append("\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
                   "A")
                .text,
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Append("\xF4\x91\x92\x93\xFF"
                   "A\x80\xBF"
                   "B")
                .text,
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Append("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                   "A")
                .text,
            r + r + r + r + "A");
  EXPECT_EQ(Append("\xF5\xF8").text, r + r);
}

TEST(Utf8, ByteThatCannotFollow_EndsTheSubpartAndIsReadAgain) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(Append("\xE4\xB8"
                   "a"),
            (Outcome{r + "a", 0}));
  EXPECT_EQ(Append("\xE4\xC3\xA9"), (Outcome{r + "\xC3\xA9", 0}));
}

}  // namespace
}  // namespace halfmoon::text
