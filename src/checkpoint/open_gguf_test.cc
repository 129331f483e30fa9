// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/temporary_folder_for_test.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_split.h"
#include "checkpoint/gguf_test_file.h"

namespace halfmoon::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(ParseSplitName, PartsAndOthers) {
  const auto name = ParseSplitName("a-b.Q4_K_M-00002-of-00011.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->stem, "a-b.Q4_K_M");
  EXPECT_EQ(name->number, 2);
  EXPECT_EQ(name->count, 11);
  EXPECT_EQ(name->PartName(10), "a-b.Q4_K_M-00011-of-00011.gguf");
  for (const char* other : {"a.gguf", "-00001-of-00002.gguf", "a-00003-of-00002.gguf",
                            "a-00000-of-00002.gguf", "a-0001-of-00002.gguf", "a-00001-of-00002",
                            "a-0000x-of-00002.gguf", "a-+0001-of-00002.gguf", ""}) {
    EXPECT_FALSE(ParseSplitName(other).has_value()) << other;
  }
}

/// A small llama in two parts.
class SplitGguf : public testing::Test {
 protected:
  SplitGguf() {
    Write(1, SmallGgufModel("llama"), 0);
    GgufTestFile second;
    second.Tensor("output.weight", {96, 64});
    Write(2, std::move(second), 1);
  }

  fs::path Part(int number) const {
    return folder_.path() / ("m-0000" + std::to_string(number) + "-of-00002.gguf");
  }
  void Write(int number, GgufTestFile file, uint16_t index, uint16_t count = 2,
             int32_t tensors = 21) {
    file.Scalar("split.no", GgufType::kU16, index).Scalar("split.count", GgufType::kU16, count);
    file.Scalar("split.tensors.count", GgufType::kI32, tensors);
    folder_.Write(Part(number).filename().string(), file.Build());
  }
  void ExpectError(const fs::path& path, ErrorCode code, std::string_view message) const {
    const auto opened = Open(path);
    ASSERT_FALSE(opened.ok()) << message;
    EXPECT_EQ(opened.error().code(), code) << opened.error().message();
    EXPECT_THAT(opened.error().message(), HasSubstr(message));
  }

  TemporaryFolder folder_;
};

TEST_F(SplitGguf, AnyPartOrTheFolder_OpensAll) {
  for (const fs::path& path : {Part(1), Part(2), folder_.path()}) {
    const auto opened = Open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    EXPECT_EQ((*opened)->Names().size(), 21u);
    EXPECT_NE((*opened)->Find("lm_head.weight"), nullptr);
    EXPECT_NE((*opened)->Find("model.norm.weight"), nullptr);
    EXPECT_EQ((*opened)->config().at("tie_word_embeddings"), false);
  }
}

TEST_F(SplitGguf, FolderWithAnotherModel_AsksWhich) {
  folder_.Write("z.gguf", "x");
  ExpectError(folder_.path(), ErrorCode::kInvalidArgument, "3 .gguf files; name the one to open");
}

TEST_F(SplitGguf, MissingPart_IsNamed) {
  fs::remove(Part(1));
  ExpectError(Part(2), ErrorCode::kNotFound, "m-00001-of-00002.gguf");
  ExpectError(folder_.path(), ErrorCode::kNotFound, "m-00001-of-00002.gguf");
}

TEST_F(SplitGguf, PartThatIsAnother_IsNamed) {
  Write(2, GgufTestFile().Tensor("output.weight", {96, 64}), 0);
  ExpectError(Part(1), ErrorCode::kCorrupt,
              "m-00002-of-00002.gguf: by its name part 2 of 2, by its metadata part 1 of 2");
  Write(2, GgufTestFile().Tensor("output_norm.weight", {64}), 1);
  ExpectError(Part(1), ErrorCode::kCorrupt, "tensor 'output_norm.weight' is in an earlier part");
  Write(2, GgufTestFile(), 1);
  ExpectError(Part(1), ErrorCode::kCorrupt, "split.tensors.count is 21, the parts hold 20");
  folder_.Write(Part(2).filename().string(), GgufTestFile().Build());
  ExpectError(Part(1), ErrorCode::kCorrupt, "split.no");
}

TEST_F(SplitGguf, NameThatTellsNothing_SaysWhatIsExpected) {
  fs::rename(Part(1), folder_.path() / "first.gguf");
  ExpectError(folder_.path() / "first.gguf", ErrorCode::kInvalidArgument,
              "has to end in -00001-of-00002.gguf");
}

}  // namespace
}  // namespace halfmoon::checkpoint
