// SPDX-License-Identifier: Apache-2.0
#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

namespace halfmoon::engine {
namespace {

// The text that comes out when `text` goes in in pieces of `size`.
std::string RunInPieces(const std::vector<std::string>& stop, bool include_stop,
                        const std::string& text, size_t size, bool* matched) {
  StopMatcher matcher(stop, include_stop);
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += matcher.Push(text.substr(i, size));
  *matched = matcher.matched();
  return out + matcher.Finish();
}

TEST(StopMatcher, AnyCut_SameResult) {
  struct Case {
    std::vector<std::string> stop;
    std::string text;
    std::string expected;
    std::string expected_included;
    bool matched;
  };
  const Case cases[] = {
      {{}, "hello", "hello", "hello", false},
      {{"lo"}, "hello world", "hel", "hello", true},
      {{"\n\n"}, "a\nb\n\nc", "a\nb", "a\nb\n\n", true},
      {{"aab"}, "aaab", "a", "aaab", true},
      {{"abc", "bd"}, "abbd", "ab", "abbd", true},
      {{"abcd", "bc"}, "abcd", "a", "abc", true},
      {{"c", "abc"}, "xabc", "x", "xabc", true},
      {{"STOP"}, "no ST and no STO", "no ST and no STO", "no ST and no STO", false},
      {{"</a>"}, "</a>", "", "</a>", true},
  };
  for (const Case& c : cases) {
    for (size_t size = 1; size <= c.text.size(); ++size) {
      bool matched = false;
      EXPECT_EQ(RunInPieces(c.stop, false, c.text, size, &matched), c.expected) << size;
      EXPECT_EQ(matched, c.matched);
      EXPECT_EQ(RunInPieces(c.stop, true, c.text, size, &matched), c.expected_included) << size;
    }
  }
}

TEST(StopMatcher, PossibleBeginning_HeldUntilDecided) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.Push("the E"), "the ");
  EXPECT_EQ(matcher.Push("N"), "");
  EXPECT_EQ(matcher.Push("E"), "EN");
  EXPECT_EQ(matcher.Push("ND and more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("ignored"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

}  // namespace
}  // namespace halfmoon::engine
