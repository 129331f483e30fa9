// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/gguf_test_file.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using testing::HasSubstr;

std::string File(std::string_view header, size_t data_bytes) {
  std::string file;
  GgufTestFile::Put(&file, static_cast<uint64_t>(header.size()));
  file += header;
  file.append(data_bytes, '\7');
  return file;
}

/// The error of parsing a file with this header, which has to name what is wrong.
void ExpectError(std::string_view header, size_t data_bytes, ErrorCode code,
                 std::string_view message) {
  const auto parsed = ParseSafetensors(BytesOf(File(header, data_bytes)));
  ASSERT_FALSE(parsed.ok()) << header;
  EXPECT_EQ(parsed.error().code(), code) << parsed.error().message();
  EXPECT_THAT(parsed.error().message(), HasSubstr(message));
}

constexpr std::string_view kGood =
    R"({"__metadata__":{"format":"pt","n":3},"b":{"dtype":"BF16","shape":[2,3],)"
    R"("data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("empty":{"dtype":"I64","shape":[0,4],"data_offsets":[8,8]},)"
    R"("scalar":{"dtype":"BOOL","shape":[],"data_offsets":[20,21]}}   )";

TEST(ParseSafetensors, GoodFile_GivesViews) {
  const std::string file = File(kGood, 21);
  const auto parsed = ParseSafetensors(BytesOf(file));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  ASSERT_EQ(parsed->tensors.size(), 4u);
  EXPECT_EQ(parsed->header_bytes, 8 + kGood.size());
  EXPECT_EQ(parsed->metadata.at("format"), "pt");
  EXPECT_EQ(parsed->metadata.at("n"), "3");
  const tensor::TensorView& b = parsed->tensors.at("b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(b.shape, Shape({2, 3}));
  EXPECT_EQ(b.bytes.size(), 12u);
  EXPECT_EQ(b.bytes.data(), BytesOf(file).data() + parsed->header_bytes + 8);
  EXPECT_TRUE(parsed->tensors.at("empty").bytes.empty());
  EXPECT_EQ(parsed->tensors.at("scalar").bytes.size(), 1u);
}

TEST(ParseSafetensors, NoTensors_IsAnEmptyFile) {
  EXPECT_TRUE(ParseSafetensors(BytesOf(File("{}", 0))).ok());
  ExpectError("{}", 5, ErrorCode::kCorrupt, "holds 5 bytes, the tensors 0");
}

TEST(ParseSafetensors, BadLength_NamesIt) {
  const auto expect = [](std::string_view file, std::string_view message) {
    const auto parsed = ParseSafetensors(BytesOf(file));
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().code(), ErrorCode::kCorrupt);
    EXPECT_THAT(parsed.error().message(), HasSubstr(message));
  };
  expect("", "0 bytes");
  expect("1234567", "7 bytes");
  expect(std::string(8, '\xFF'), "limit");
  expect(std::string("\x00\xE1\xF5\x05\x00\x00\x00\x00", 8), "header of 100000000 bytes");
  expect(std::string("\x03\x00\x00\x00\x00\x00\x00\x00{}", 10), "header of 3 bytes, but only 2");
}

TEST(ParseSafetensors, HeaderThatIsNotAnObject_IsCorrupt) {
  ExpectError("", 0, ErrorCode::kCorrupt, "not JSON");
  ExpectError("[]", 0, ErrorCode::kCorrupt, "expected a JSON object, found array");
  ExpectError(R"({"a":)", 0, ErrorCode::kCorrupt, "not JSON");
  ExpectError(R"({} x)", 0, ErrorCode::kCorrupt, "not JSON");
  ExpectError(std::string(500, '['), 0, ErrorCode::kCorrupt, "not JSON");
  ExpectError(R"({"a":7})", 0, ErrorCode::kCorrupt, "tensor 'a': expected an object, found number");
}

TEST(ParseSafetensors, BadField_NamesTensorAndField) {
  constexpr auto kCorrupt = ErrorCode::kCorrupt;
  ExpectError(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, kCorrupt,
              "tensor 'a': field 'dtype'");
  ExpectError(R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", 8, kCorrupt,
              "'dtype': expected a string");
  ExpectError(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, kCorrupt, "'shape' is missing");
  ExpectError(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, kCorrupt,
              "'shape': expected an array");
  ExpectError(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, kCorrupt,
              "found -2");
  ExpectError(R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, kCorrupt,
              "'shape'");
  ExpectError(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8,
              kCorrupt, "'shape'");
  ExpectError(R"({"a":{"dtype":"F32","shape":[2]}})", 8, kCorrupt, "'data_offsets' is missing");
  ExpectError(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, kCorrupt,
              "expected [begin, end]");
  ExpectError(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, kCorrupt,
              "begin <= end, found [8, 0]");
}

TEST(ParseSafetensors, UnknownType_IsUnsupported) {
  ExpectError(R"({"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", 1,
              ErrorCode::kUnsupported, "tensor 'w': dtype 'F4' is not one of");
  // Block formats exist only in GGUF.
  ExpectError(R"({"w":{"dtype":"Q4_0","shape":[32],"data_offsets":[0,18]}})", 18,
              ErrorCode::kUnsupported, "'Q4_0'");
}

TEST(ParseSafetensors, RangesThatDoNotFit_NameTheTensor) {
  constexpr auto kCorrupt = ErrorCode::kCorrupt;
  ExpectError(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, kCorrupt,
              "tensor 'a': data ends at byte 8 of the data section, which holds 7 bytes");
  ExpectError(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, kCorrupt,
              "F32 [3] takes 12 bytes, but data_offsets span 8");
  ExpectError(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8,
              kCorrupt, "too large");
  ExpectError(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],)"
      R"("data_offsets":[3,7]}})",
      7, kCorrupt, "tensor 'b': data starts at byte 3, inside tensor 'a', which ends at 4");
  ExpectError(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],)"
      R"("data_offsets":[5,9]}})",
      9, kCorrupt, "leaving a hole after tensor 'a'");
  ExpectError(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6, kCorrupt,
              "leaving a hole after the header");
  ExpectError(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 9, kCorrupt,
              "holds 9 bytes, the tensors 4");
}

TEST(ParseSafetensors, NameTwice_IsCorrupt) {
  ExpectError(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],)"
      R"("data_offsets":[0,4]}})",
      4, ErrorCode::kCorrupt, "tensor 'a' is described twice");
  ExpectError(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
              R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
              1, ErrorCode::kCorrupt, "a tensor is described twice");
  // The same word inside a value, an escape or another level is no repetition.
  EXPECT_TRUE(ParseSafetensors(
                  BytesOf(File(R"({"__metadata__":{"a":"\"a\":{"},"a":{"dtype":"U8","shape":[1],)"
                               R"("data_offsets":[0,1]}})",
                               1)))
                  .ok());
}

TEST(ParseSafetensors, EveryTruncation_IsAnError) {
  const std::string file = File(kGood, 21);
  for (size_t size = 0; size < file.size(); ++size) {
    // A copy of exactly this size, so that the sanitizer sees a read past its end.
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<ptrdiff_t>(size));
    const auto parsed = ParseSafetensors(BytesOf({cut.data(), cut.size()}));
    ASSERT_FALSE(parsed.ok()) << size;
    EXPECT_FALSE(parsed.error().message().empty());
  }
}

TEST(ParseSafetensors, EveryCorruptByte_ParsesOrFailsCleanly) {
  const std::string good = File(kGood, 21);
  std::mt19937 random(4);
  for (size_t at = 0; at < good.size() - 21; ++at) {
    for (int round = 0; round < 8; ++round) {
      std::string bad = good;
      bad[at] = static_cast<char>(round < 4 ? "\0\xFF\"}"[round] : static_cast<char>(random()));
      const auto parsed = ParseSafetensors(BytesOf(bad));
      if (!parsed.ok()) continue;
      for (const auto& [name, view] : parsed->tensors) {
        EXPECT_LE(view.bytes.data() + view.bytes.size(), BytesOf(bad).data() + bad.size());
      }
    }
  }
}

TEST(SafetensorsFile, Golden_FindsTensors) {
  const std::filesystem::path golden = HALFMOON_GOLDEN_DIR;
  const auto file = SafetensorsFile::Open(golden / "qwen3/dense/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.error().message();
  ASSERT_NE(file->Find("model.norm.weight"), nullptr);
  EXPECT_EQ(file->Find("model.norm.weight")->shape, Shape({96}));
  EXPECT_EQ(file->Find("model.norm"), nullptr);
}

TEST(SafetensorsFile, MissingFile_NamesIt) {
  const auto file = SafetensorsFile::Open("no_such_file.safetensors");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(file.error().message(), HasSubstr("no_such_file.safetensors"));
}

TEST(SafetensorsFile, CorruptFile_NamesIt) {
  const auto file =
      SafetensorsFile::Open(std::filesystem::path(HALFMOON_GOLDEN_DIR) / "qwen3/dense/config.json");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code(), ErrorCode::kCorrupt);
  EXPECT_THAT(file.error().message(), HasSubstr("config.json: header length"));
}

}  // namespace
}  // namespace halfmoon::checkpoint
