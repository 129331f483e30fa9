// SPDX-License-Identifier: Apache-2.0
#include "hub/hub.h"

#include <gtest/gtest.h>

namespace halfmoon::hub {
namespace {

TEST(ModelName, Spellings_AreTakenApart) {
  struct Case {
    const char* text;
    const char* id;
    const char* revision;
    const char* quant;
  };
  for (const Case& c : {Case{"org/name", "org/name", "", ""}, Case{"gpt2", "gpt2", "", ""},
                        Case{"org/na.me-2_x:Q4_K_M", "org/na.me-2_x", "", "Q4_K_M"},
                        Case{"org/name@refs/pr/1", "org/name", "refs/pr/1", ""},
                        Case{"org/name@v1:dir/file.gguf", "org/name", "v1", "dir/file.gguf"},
                        Case{"hf.co/org/name:Q8_0", "org/name", "", "Q8_0"},
                        Case{"https://huggingface.co/org/name", "org/name", "", ""}}) {
    const auto name = ModelName::Parse(c.text);
    ASSERT_TRUE(name.ok()) << c.text << ": " << name.error().message();
    EXPECT_EQ(name->id, c.id) << c.text;
    EXPECT_EQ(name->revision, c.revision) << c.text;
    EXPECT_EQ(name->quant, c.quant) << c.text;
  }
  EXPECT_EQ(ModelName::Parse("org/name@v1:Q4_0")->ToString(), "org/name@v1:Q4_0");
}

TEST(ModelName, WhatIsNoName_IsRefusedWithTheSpelling) {
  for (const char* bad :
       {"", "/", "org/", "/name", "a/b/c", "../name", "org/..", ".org/name", "org/na me",
        "org/-name", "org/a--b", "org/name:", "org/name@", "org/name:../x", "org/name@../x",
        "org/name:/x", "~/name", "org/name\n", "https://other.example/org/name"}) {
    const auto name = ModelName::Parse(bad);
    ASSERT_FALSE(name.ok()) << bad;
    EXPECT_NE(name.error().message().find("model name"), std::string::npos) << bad;
  }
}

TEST(RelativePath, WhatLeavesItsFolder_IsRefused) {
  for (const char* good : {"a", "a/b.c", ".gitattributes", "a..b", "a/...", "\xc3\xa9/x y"}) {
    EXPECT_TRUE(CheckRelativePath(good).ok()) << good;
  }
  const std::string long_part(256, 'x');
  std::string long_path = "x";
  while (long_path.size() <= 1024) long_path += "/x";
  for (const std::string& bad :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string("."),
        std::string("./a"), std::string("a/.."), std::string("../a"), std::string("a/../../b"),
        std::string("a\\b"), std::string("a\nb"), std::string("a\0b", 3), std::string("a\x7f"),
        long_part, long_path}) {
    const Status status = CheckRelativePath(bad);
    ASSERT_FALSE(status.ok()) << bad;
    EXPECT_EQ(status.error().code(), ErrorCode::kCorrupt);
  }
}

TEST(OneLine, ControlCharactersAndBrokenUtf8_AreTakenOut) {
  EXPECT_EQ(OneLine("a\r\n\x1b[31mb\x7f"), "a[31mb");
  EXPECT_EQ(OneLine("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"), "gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80");
  EXPECT_EQ(OneLine("a\xc2\x9b"
                    "b"),
            "ab");  // C1
  EXPECT_EQ(OneLine("\x80\xff\xc3"), "???");
  EXPECT_EQ(OneLine("\xed\xa0\x80|\xf4\x90\x80\x80|\xc0\x80|\xe0\x80\x80"), "???|????|??|???");
  EXPECT_EQ(OneLine("\xc3\xbc\xc3\xbc", 3), "\xc3\xbc");  // Cut between characters.
}

TEST(SizeText, Sizes_AreReadable) {
  EXPECT_EQ(SizeText(0), "0 B");
  EXPECT_EQ(SizeText(900), "900 B");
  EXPECT_EQ(SizeText(1536), "1.5 KiB");
  EXPECT_EQ(SizeText(uint64_t{17} << 30), "17.0 GiB");
  EXPECT_EQ(SizeText(uint64_t{600} << 30), "600 GiB");
  EXPECT_EQ(SizeText(uint64_t{5000} << 40), "5000 TiB");
}

}  // namespace
}  // namespace halfmoon::hub
