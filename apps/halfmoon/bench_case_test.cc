// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_case.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::app {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Names(const CaseRequest& request, bool first_token) {
  const Result<std::vector<BenchCase>> cases = ChooseCases(request, first_token);
  std::vector<std::string> names;
  if (!cases.ok()) return {cases.error().message()};
  for (const BenchCase& one : *cases) names.push_back(CaseName(one));
  return names;
}

TEST(BenchCase, EveryKind_NameAndBack) {
  for (const char* name :
       {"prefill 512", "prefill 20 at 100", "decode x16", "decode x1 at 4096", "first token"}) {
    const Result<BenchCase> parsed = ParseCase(name);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message();
    EXPECT_EQ(CaseName(*parsed), name);
  }
  EXPECT_EQ(*ParseCase("decode x3 at 7"),
            (BenchCase{.kind = BenchCase::Kind::kDecode, .sequences = 3, .depth = 7}));
}

TEST(BenchCase, OtherNames_Refused) {
  for (const char* name : {"", "prefill", "prefill x5", "prefill 0", "prefill 5 ", "decode 4",
                           "decode x", "decode x-1", "decode x1025", "prefill 99999999999",
                           "decode x1 at", "decode x1 at -4", "decode x1 at 4 at 5", "first"}) {
    const Result<BenchCase> parsed = ParseCase(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(parsed.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message(), HasSubstr("\"" + std::string(name) + "\""));
  }
}

TEST(ChooseCases, NothingAsked_UsualOnes) {
  EXPECT_THAT(Names({}, true),
              ElementsAre("prefill 512", "prefill 4096", "decode x1", "decode x4", "decode x16",
                          "decode x64", "decode x1 at 4096", "first token"));
  EXPECT_THAT(Names({}, false), testing::Not(testing::Contains("first token")));
}

TEST(ChooseCases, Lists_EachAtEachDepth) {
  EXPECT_THAT(Names({.prefill = {20}, .batch = {1, 2}, .depth = {0, 7}}, true),
              ElementsAre("prefill 20", "decode x1", "decode x2", "prefill 20 at 7",
                          "decode x1 at 7", "decode x2 at 7"));
  // One list alone leaves the others as they are, and asks for no depth.
  EXPECT_THAT(Names({.batch = {2}}, true), ElementsAre("prefill 512", "prefill 4096", "decode x2"));
}

TEST(ChooseCases, Named_OnlyThoseInTheirOrder) {
  EXPECT_THAT(Names({.names = {"first token", "decode x2"}, .prefill = {5}}, false),
              ElementsAre("first token", "decode x2"));
  EXPECT_THAT(Names({.names = {"decode"}}, false), ElementsAre(HasSubstr("expected")));
}

TEST(MostSequences, AnyCase_TheMost) {
  EXPECT_EQ(*MostSequences({}), 64);
  EXPECT_EQ(*MostSequences({.names = {"prefill 5", "decode x3", "decode x2"}}), 3);
  EXPECT_FALSE(MostSequences({.names = {"decode"}}).ok());
}

TEST(CasesThatFit, TooLong_LeftOutOrRefused) {
  const std::vector<BenchCase> cases = {*ParseCase("prefill 100"), *ParseCase("decode x2 at 99"),
                                        *ParseCase("decode x2 at 98")};
  std::vector<std::string> left_out;
  const auto note = [&](const std::string& why) { left_out.push_back(why); };
  EXPECT_THAT(*CasesThatFit(cases, /*asked=*/false, 2, 100, note), ElementsAre(cases[0], cases[2]));
  EXPECT_THAT(left_out, ElementsAre("decode x2 at 99: 101 tokens do not fit the context of 100"));
  const auto refused = CasesThatFit(cases, /*asked=*/true, 2, 100, note);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(), left_out.front());
}

TEST(PositionsOf, Kinds_DepthAndWhatIsComputed) {
  EXPECT_EQ(PositionsOf({.kind = BenchCase::Kind::kPrefill, .tokens = 20, .depth = 7}, 3), 27);
  EXPECT_EQ(PositionsOf({.kind = BenchCase::Kind::kDecode, .sequences = 9, .depth = 7}, 3), 10);
}

}  // namespace
}  // namespace halfmoon::app
