// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <utility>

namespace halfmoon {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "halfmoon_file.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  size_t NumFiles() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  fs::path folder_;
};

TEST_F(FileTest, WriteThenRead_IsEqual) {
  const fs::path path = folder_ / "f";
  const std::string content("a\0b\n", 4);
  ASSERT_TRUE(WriteFileAtomic(path, content).ok());
  EXPECT_EQ(*ReadTextFile(path, 4), content);
  ASSERT_TRUE(WriteFileAtomic(path, "new").ok());
  EXPECT_EQ(*ReadTextFile(path, 100), "new");
  EXPECT_EQ(NumFiles(), 1u);
  EXPECT_EQ(fs::status(path).permissions() & fs::perms::all, fs::perms(0644));
}

TEST_F(FileTest, Read_AboveTheBound_IsRefused) {
  const fs::path path = folder_ / "f";
  ASSERT_TRUE(WriteFileAtomic(path, "12345").ok());
  const auto text = ReadTextFile(path, 4);
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.error().code(), ErrorCode::kResourceExhausted);
  EXPECT_THAT(text.error().message(), HasSubstr("5 bytes, more than the 4"));
}

TEST_F(FileTest, Read_MissingFileOrFolder_NamesIt) {
  const auto missing = ReadTextFile(folder_ / "none", 10);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("none"));
  const auto folder = ReadTextFile(folder_, 10);
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.error().code(), ErrorCode::kInvalidArgument);
}

TEST_F(FileTest, Write_FailingRename_LeavesNoTemporary) {
  const fs::path taken = folder_ / "d";
  fs::create_directory(taken);
  const Status status = WriteFileAtomic(taken, "x");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kIo);
  EXPECT_EQ(NumFiles(), 1u);
  EXPECT_FALSE(WriteFileAtomic(folder_ / "none" / "f", "x").ok());
}

TEST_F(FileTest, MappedFile_HoldsTheBytesAcrossMoves) {
  const fs::path path = folder_ / "f";
  ASSERT_TRUE(WriteFileAtomic(path, "hello").ok());
  auto opened = MappedFile::Open(path);
  ASSERT_TRUE(opened.ok());
  const std::byte* data = opened->bytes().data();
  MappedFile moved(std::move(*opened));
  EXPECT_EQ(moved.bytes().data(), data);
  EXPECT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(moved.path(), path);
  auto other = MappedFile::Open(path);
  ASSERT_TRUE(other.ok());
  MappedFile& assigned = *other;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.bytes().data(), data);
  EXPECT_EQ(static_cast<char>(assigned.bytes()[4]), 'o');
  assigned.WillNeed(0, 5);
  assigned.WillNeed(3, SIZE_MAX);
  assigned.WillNeed(99, 1);
}

TEST_F(FileTest, MappedFile_EmptyOrMissing_IsAnswered) {
  ASSERT_TRUE(WriteFileAtomic(folder_ / "empty", "").ok());
  const auto empty = MappedFile::Open(folder_ / "empty");
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty->bytes().empty());
  empty->WillNeed(0, 1);
  EXPECT_EQ(MappedFile::Open(folder_ / "none").error().code(), ErrorCode::kNotFound);
  EXPECT_FALSE(MappedFile::Open(folder_).ok());
}

}  // namespace
}  // namespace halfmoon
