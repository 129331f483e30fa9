// SPDX-License-Identifier: Apache-2.0
#include "hub/license.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temporary_folder_for_test.h"

namespace halfmoon::hub {
namespace {

using ::testing::HasSubstr;

TEST(License, PermissiveOnes_AreKnownInEverySpelling) {
  for (const char* name :
       {"apache-2.0", "Apache-2.0", "Apache License 2.0", "apache_2.0", "MIT", "mit", "MIT License",
        "BSD-3-Clause", "bsd", "cc-by-4.0", "CC0-1.0", "Unlicense", "isc", "bsl-1.0",
        "apache-2.0, mit", "MIT OR Apache-2.0", "MIT OR GPL-3.0", "MIT AND BSD-2-Clause"}) {
    EXPECT_TRUE(IsPermissive(name)) << name;
  }
}

TEST(License, OthersAndUnknownOnes_AreNotPermissive) {
  for (const char* name : {"",
                           "other",
                           "unknown",
                           "llama3.1",
                           "gemma",
                           "qwen-research",
                           "cc-by-nc-4.0",
                           "cc-by-sa-4.0",
                           "cc-by-nd-4.0",
                           "gpl-3.0",
                           "gpl-2.0-or-later",
                           "agpl-3.0",
                           "openrail",
                           "bigscience-openrail-m",
                           "modified-mit",
                           "Modified MIT License",
                           "mit-like",
                           "BSL-1.1",
                           "apache-2.0, gemma",
                           "MIT AND GPL-3.0",
                           "deepseek",
                           "not-apache-2.0"}) {
    EXPECT_FALSE(IsPermissive(name)) << name;
  }
}

TEST(License, FrontMatterOfAModelCard_IsRead) {
  const auto name = [](const char* text) { return LicenseFromModelCard(text).name; };
  EXPECT_EQ(name("---\nlanguage: en\nlicense: apache-2.0\n---\n# Title"), "apache-2.0");
  EXPECT_EQ(name("---\r\nlicense: \"mit\" \r\n---\r\n"), "mit");
  EXPECT_EQ(name("---\nlicense: 'mit'  # a comment\n---\n"), "'mit'");
  EXPECT_EQ(name("---\nlicense: mit # a comment\n---\n"), "mit");
  EXPECT_EQ(name("---\nlicense:\n- mit\n- apache-2.0\ntags:\n- x\n---\n"), "mit, apache-2.0");
  EXPECT_EQ(name("---\nlicense: [mit, apache-2.0]\n---\n"), "mit, apache-2.0");
  EXPECT_EQ(name("---\nlicense: other\nlicense_name: modified-mit\n---\n"), "modified-mit");
  EXPECT_EQ(name("---\nlicense_name: first\nlicense: other\n---\n"), "first");
  EXPECT_EQ(name("---\nlicense: mit\x1b[31m\n---\n"), "mit[31m");
  EXPECT_EQ(name("# No front matter\nlicense: mit\n"), "");
  EXPECT_EQ(name("---\ntags: x\n---\nlicense: mit\n"), "");
  EXPECT_EQ(name("---\nmodel:\n  license: mit\n---\n"), "");
  EXPECT_EQ(name(""), "");
  EXPECT_EQ(LicenseFromModelCard("---\nlicense_link: https://x/y\n---\n").link, "https://x/y");
}

TEST(License, Text_IsKnownByItsBeginning) {
  EXPECT_EQ(LicenseFromText("\n    Apache License\n  Version 2.0, January 2004\n"), "apache-2.0");
  EXPECT_EQ(LicenseFromText("MIT License\n\nCopyright"), "mit");
  EXPECT_EQ(LicenseFromText("Modified MIT License\n\nCopyright"), "Modified MIT License");
  EXPECT_EQ(LicenseFromText("# HOUSE RULES \n"), "HOUSE RULES");
  EXPECT_EQ(LicenseFromText("\n\n"), "");
}

TEST(License, Folder_IsJudgedByItsCardElseByItsLicenseFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(LicenseOfFolder(folder.path()).name, "");
  folder.Write("LICENSE", "MIT License\n");
  EXPECT_EQ(LicenseOfFolder(folder.path()).name, "mit");
  folder.Write("README.md", "---\nlicense: other\n---\n");
  EXPECT_EQ(LicenseOfFolder(folder.path()).name, "mit");
  folder.Write("README.md", "---\nlicense: gemma\n---\n");
  EXPECT_EQ(LicenseOfFolder(folder.path()).name, "gemma");
}

TEST(License, Line_SaysWhatAsksForASecondLook) {
  EXPECT_EQ(LicenseLine({.name = "MIT", .link = ""}), "MIT");
  EXPECT_EQ(LicenseNote({.name = "MIT", .link = ""}), "");
  EXPECT_THAT(LicenseLine({.name = "gemma", .link = "https://x"}),
              ::testing::AllOf(HasSubstr("gemma: not a standard permissive licence"),
                               HasSubstr("(https://x)")));
  EXPECT_THAT(LicenseLine({}), HasSubstr("not stated"));
  EXPECT_EQ(LicenseLine({.name = "a\nb", .link = "c\nd"}).find('\n'), std::string::npos);
}

}  // namespace
}  // namespace halfmoon::hub
