// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace halfmoon::json {
namespace {

using testing::HasSubstr;

TEST(Parse, Documents_BecomeValues) {
  EXPECT_EQ(*Parse(" [1, 2.5, \"x\", null, true] \n"), (value{1, 2.5, "x", nullptr, true}));
  EXPECT_EQ(Parse("7")->as_int64(), 7);
  EXPECT_EQ(ParseObject(R"({"a":{"b":1}})")->at("a").at("b"), 1);
}

TEST(Parse, BrokenText_NamesTheByte) {
  for (const char* text :
       {"", "   ", "{", "[1,", "{\"a\" 1}", "nul", "\"open", "[1]]", "1 2", "{}x", "'a'", "[01]"}) {
    const auto parsed = Parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message(), HasSubstr("not JSON: ")) << text;
    EXPECT_THAT(parsed.error().message(), HasSubstr("at byte")) << text;
  }
}

TEST(Parse, InvalidUtf8_IsAnError) { EXPECT_FALSE(Parse("\"\xFF\xFE\"").ok()); }

TEST(Parse, Nesting_IsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(Parse(nested(kMaxDepth)).ok());
  EXPECT_FALSE(Parse(nested(kMaxDepth + 1)).ok());
  EXPECT_FALSE(Parse(std::string(1'000'000, '[')).ok());
}

TEST(ParseObject, OtherKind_IsNamed) {
  const auto parsed = ParseObject("[1]");
  ASSERT_FALSE(parsed.ok());
  EXPECT_THAT(parsed.error().message(), HasSubstr("expected a JSON object, found array"));
}

TEST(KindName, EveryKind_HasAName) {
  EXPECT_EQ(KindName(value(nullptr)), "null");
  EXPECT_EQ(KindName(value(true)), "boolean");
  EXPECT_EQ(KindName(value(1)), "number");
  EXPECT_EQ(KindName(value(uint64_t{1} << 63)), "number");
  EXPECT_EQ(KindName(value(0.5)), "number");
  EXPECT_EQ(KindName(value("s")), "string");
  EXPECT_EQ(KindName(value(array{})), "array");
  EXPECT_EQ(KindName(value(object{})), "object");
}

class FieldTest : public testing::Test {
 protected:
  const object o_ =
      *ParseObject(R"({"i":-3,"f":1e6,"half":0.5,"big":18446744073709551615,"b":true,)"
                   R"("s":"text","n":null,"a":[1],"o":{},"huge":1e300})");
};

TEST_F(FieldTest, Find_PresentField_HasItsValue) {
  EXPECT_EQ(**FindInt(o_, "i"), -3);
  EXPECT_EQ(**FindInt(o_, "f"), 1'000'000);
  EXPECT_EQ(**FindDouble(o_, "i"), -3.0);
  EXPECT_EQ(**FindDouble(o_, "half"), 0.5);
  EXPECT_EQ(**FindBool(o_, "b"), true);
  EXPECT_EQ(**FindString(o_, "s"), "text");
  EXPECT_EQ((*FindArray(o_, "a"))->size(), 1u);
  EXPECT_NE(*FindObject(o_, "o"), nullptr);
}

TEST_F(FieldTest, Find_AbsentOrNull_IsEmpty) {
  for (const char* key : {"n", "absent"}) {
    EXPECT_FALSE(FindInt(o_, key)->has_value());
    EXPECT_FALSE(FindDouble(o_, key)->has_value());
    EXPECT_FALSE(FindBool(o_, key)->has_value());
    EXPECT_FALSE(FindString(o_, key)->has_value());
    EXPECT_EQ(*FindArray(o_, key), nullptr);
    EXPECT_EQ(*FindObject(o_, key), nullptr);
    EXPECT_THAT(RequireInt(o_, key).error().message(), HasSubstr("is missing"));
    EXPECT_THAT(RequireDouble(o_, key).error().message(), HasSubstr("is missing"));
    EXPECT_THAT(RequireString(o_, key).error().message(), HasSubstr("is missing"));
  }
}

TEST_F(FieldTest, Find_WrongKind_NamesFieldAndKinds) {
  EXPECT_EQ(FindInt(o_, "s").error().message(), "field 's': expected a whole number, found string");
  EXPECT_EQ(FindString(o_, "i").error().message(), "field 'i': expected a string, found number");
  EXPECT_FALSE(FindInt(o_, "half").ok());
  EXPECT_FALSE(FindInt(o_, "big").ok());
  EXPECT_FALSE(FindInt(o_, "huge").ok());
  EXPECT_FALSE(FindDouble(o_, "b").ok());
  EXPECT_FALSE(FindBool(o_, "i").ok());
  EXPECT_FALSE(FindArray(o_, "o").ok());
  EXPECT_FALSE(FindObject(o_, "a").ok());
}

TEST(Serialize, Value_IsOneLine) {
  EXPECT_EQ(Serialize(value{{"a", array{1, "x\n"}}}), R"({"a":[1,"x\n"]})");
}

}  // namespace
}  // namespace halfmoon::json
