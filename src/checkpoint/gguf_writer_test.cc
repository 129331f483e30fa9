// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/temporary_folder_for_test.h"
#include "checkpoint/gguf_test_file.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using testing::HasSubstr;

std::vector<std::byte> Bytes(size_t count, uint8_t first) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(first + i);
  return bytes;
}

TEST(GgufWriter, TensorsAndMetadata_ReadBackAsWritten) {
  const TemporaryFolder folder;
  const auto source_bytes = GgufTestFile()
                                .U32("general.file_type", 0)
                                .String("general.architecture", "llama")
                                .Strings("tokens", {"a", "", "longer"})
                                .Numbers<float>("scores", GgufType::kF32, {0.5f, -1.0f})
                                .Build();
  const auto source = ParseGguf(std::as_bytes(std::span(source_bytes)));
  ASSERT_TRUE(source.ok()) << source.error().message();
  GgufMetadataBuilder metadata;
  for (const auto& [key, value] : source->metadata.values()) metadata.Copy(key, value);
  metadata.SetU32("general.file_type", 7);

  const auto path = folder.path() / "out.gguf";
  auto writer = GgufWriter::Create(path, metadata,
                                   {{"a", DType::kQ8_0, {3, 32}},
                                    {"empty", DType::kF32, {0}},
                                    {"b", DType::kF32, {5}},
                                    {"c", DType::kMXFP4, {2, 2, 32}}},
                                   32);
  ASSERT_TRUE(writer.ok()) << writer.error().message();
  const auto a = Bytes(3 * 34, 1);
  const auto b = Bytes(20, 100);
  const auto c = Bytes(4 * 17, 200);
  ASSERT_TRUE(writer->Append(std::span(a).first(50)).ok());
  ASSERT_TRUE(writer->Append(std::span(a).subspan(50)).ok());
  ASSERT_TRUE(writer->Append(b).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->Append(c).ok());
  ASSERT_TRUE(writer->Finish().ok());

  const auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  const auto read = ParseGguf(mapped->bytes());
  ASSERT_TRUE(read.ok()) << read.error().message();
  ASSERT_EQ(read->tensors.size(), 4u);
  EXPECT_EQ(read->tensors[0].view.dtype, DType::kQ8_0);
  EXPECT_EQ(read->tensors[3].view.shape, (tensor::Shape{2, 2, 32}));
  EXPECT_TRUE(std::ranges::equal(read->tensors[0].view.bytes, a));
  EXPECT_TRUE(std::ranges::equal(read->tensors[2].view.bytes, b));
  EXPECT_TRUE(std::ranges::equal(read->tensors[3].view.bytes, c));
  EXPECT_EQ(read->metadata.FindInt("general.file_type").value(), 7);
  EXPECT_EQ(read->metadata.FindStrings("tokens").value(),
            (std::vector<std::string>{"a", "", "longer"}));
  EXPECT_EQ(read->metadata.FindFloats("scores").value(), (std::vector<float>{0.5f, -1.0f}));
}

TEST(GgufWriter, WrongUse_ErrorsAndLeavesNothing) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.gguf";
  const auto message = [&](const std::vector<GgufEntry>& entries) {
    const auto writer = GgufWriter::Create(path, {}, entries, 32);
    return writer.ok() ? std::string() : writer.error().message();
  };
  EXPECT_THAT(message({{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}), HasSubstr("'a'"));
  EXPECT_THAT(message({{"a", DType::kF8E4M3, {1}}}), HasSubstr("GGUF has no type F8_E4M3"));
  EXPECT_THAT(message({{"a", DType::kQ4_K, {32}}}), HasSubstr("not a multiple"));
  EXPECT_THAT(message({{"a", DType::kF32, {1, 1, 1, 1, 1}}}), HasSubstr("four dimensions"));
  {
    auto writer = GgufWriter::Create(path, {}, {{"a", DType::kF32, {2}}}, 32);
    ASSERT_TRUE(writer.ok());
    const auto bytes = Bytes(9, 0);
    EXPECT_FALSE(writer->Append(bytes).ok());
    ASSERT_TRUE(writer->Append(std::span(bytes).first(4)).ok());
    const Status early = writer->Finish();
    ASSERT_FALSE(early.ok());
    EXPECT_THAT(early.error().message(), HasSubstr("tensor 0 of 1 is not whole"));
  }
  EXPECT_EQ(folder.NumFiles(), 0u);
  EXPECT_FALSE(GgufWriter::Create(folder.path() / "missing/out.gguf", {}, {}, 32).ok());
}

}  // namespace
}  // namespace halfmoon::checkpoint
