// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/temporary_folder_for_test.h"
#include "checkpoint/safetensors.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using testing::HasSubstr;

TEST(SafetensorsWriter, PiecesOfAnySize_ReadBackEqual) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  std::vector<float> logits(3 * 5);
  std::iota(logits.begin(), logits.end(), 0.5f);
  const std::vector<int64_t> ids = {1, -2};
  {
    auto writer = SafetensorsWriter::Create(path, {{"logits.0", DType::kF32, Shape({3, 5})},
                                                   {"empty", DType::kU8, Shape({0})},
                                                   {"ids \"0\"", DType::kI64, Shape({2})}});
    ASSERT_TRUE(writer.ok()) << writer.error().message();
    const auto bytes = std::as_bytes(std::span(logits));
    for (size_t at = 0; at < bytes.size(); at += 7) {
      ASSERT_TRUE(writer->Append(bytes.subspan(at, std::min<size_t>(7, bytes.size() - at))).ok());
    }
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE(writer->Append(std::as_bytes(std::span(ids))).ok());
    ASSERT_TRUE(writer->Finish().ok());
  }
  EXPECT_EQ(folder.NumFiles(), 1u);
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->index().header_bytes % 8, 0u);
  ASSERT_NE(file->Find("logits.0"), nullptr);
  EXPECT_EQ(file->Find("logits.0")->shape, Shape({3, 5}));
  EXPECT_EQ(std::memcmp(file->Find("logits.0")->bytes.data(), logits.data(), 60), 0);
  EXPECT_EQ(std::memcmp(file->Find("ids \"0\"")->bytes.data(), ids.data(), 16), 0);
}

TEST(SafetensorsWriter, Abandoned_LeavesNothing) {
  const TemporaryFolder folder;
  {
    auto writer = SafetensorsWriter::Create(folder.path() / "x", {{"a", DType::kU8, Shape({4})}});
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ(folder.NumFiles(), 1u);
  }
  EXPECT_EQ(folder.NumFiles(), 0u);
}

TEST(SafetensorsWriter, TooManyOrTooFewBytes_IsInvalid) {
  const TemporaryFolder folder;
  auto writer = SafetensorsWriter::Create(folder.path() / "x", {{"a", DType::kU8, Shape({4})}});
  ASSERT_TRUE(writer.ok());
  const std::vector<std::byte> bytes(5);
  const Status early = writer->Finish();
  ASSERT_FALSE(early.ok());
  EXPECT_THAT(early.error().message(), HasSubstr("0 of the announced 4 bytes"));
  const Status beyond = writer->Append(bytes);
  ASSERT_FALSE(beyond.ok());
  EXPECT_EQ(beyond.error().code(), ErrorCode::kInvalidArgument);
}

TEST(SafetensorsWriter, BadEntry_NamesTheTensor) {
  const TemporaryFolder folder;
  const auto create = [&](const std::vector<SafetensorsEntry>& entries) -> std::string {
    const auto writer = SafetensorsWriter::Create(folder.path() / "x", entries);
    return writer.ok() ? "" : writer.error().message();
  };
  EXPECT_THAT(create({{"a", DType::kU8, Shape({1})}, {"a", DType::kU8, Shape({1})}}),
              HasSubstr("tensor 'a': the name is taken"));
  EXPECT_THAT(create({{"__metadata__", DType::kU8, Shape({1})}}), HasSubstr("the name is taken"));
  EXPECT_THAT(create({{"q", DType::kQ4_0, Shape({32})}}),
              HasSubstr("tensor 'q': safetensors has no type Q4_0"));
  EXPECT_THAT(create({{"n", DType::kU8, Shape({-1})}}), HasSubstr("tensor 'n'"));
  EXPECT_EQ(folder.NumFiles(), 0u);
}

TEST(SafetensorsWriter, FolderThatIsNotThere_IsIo) {
  const auto writer = SafetensorsWriter::Create("no_such_folder/x", {});
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code(), ErrorCode::kIo);
  EXPECT_THAT(writer.error().message(), HasSubstr("no_such_folder/x"));
}

TEST(WriteSafetensors, ViewOfWrongSize_IsInvalid) {
  const TemporaryFolder folder;
  const std::vector<std::byte> bytes(7);
  const Status wrong =
      WriteSafetensors(folder.path() / "x", {{"a", {DType::kF32, Shape({2}), bytes}}});
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.error().message(), HasSubstr("take 8 bytes, the view has 7"));
  const Status right =
      WriteSafetensors(folder.path() / "x", {{"a", {DType::kU8, Shape({7}), bytes}}});
  EXPECT_TRUE(right.ok());
}

}  // namespace
}  // namespace halfmoon::checkpoint
