// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "checkpoint/gguf_test_file.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {
namespace {

using tensor::DType;
using tensor::Shape;
using testing::ElementsAre;
using testing::HasSubstr;

void ExpectError(const std::string& file, ErrorCode code, std::string_view message) {
  const auto parsed = ParseGguf(BytesOf(file));
  ASSERT_FALSE(parsed.ok()) << message;
  EXPECT_EQ(parsed.error().code(), code) << parsed.error().message();
  EXPECT_THAT(parsed.error().message(), HasSubstr(message));
}

TEST(ParseGguf, EveryValueType_ReadsBack) {
  for (const uint32_t version : {2u, 3u}) {
    GgufTestFile file;
    file.version = version;
    file.Scalar("u8", GgufType::kU8, uint8_t{200}).Scalar("i8", GgufType::kI8, int8_t{-5});
    file.Scalar("u16", GgufType::kU16, uint16_t{60000})
        .Scalar("i16", GgufType::kI16, int16_t{-300});
    file.U32("u32", 4000000000u)
        .Scalar("i32", GgufType::kI32, -7)
        .F32("f32", 1e-5f)
        .Bool("bool", true);
    file.String("string", "text").Scalar("u64", GgufType::kU64, uint64_t{1} << 40);
    file.Scalar("i64", GgufType::kI64, int64_t{-9}).Scalar("f64", GgufType::kF64, 0.25);
    file.Strings("strings", {"a", "", "bc"});
    file.Numbers("floats", GgufType::kF32, std::vector<float>{1, 2.5});
    file.Numbers("ints", GgufType::kI32, std::vector<int32_t>{3, -4});
    file.Numbers("none", GgufType::kI32, std::vector<int32_t>{});
    const std::string bytes = file.Build();
    const auto parsed = ParseGguf(BytesOf(bytes));
    ASSERT_TRUE(parsed.ok()) << parsed.error().message();
    const GgufMetadata& m = parsed->metadata;
    EXPECT_EQ(parsed->version, version);
    EXPECT_EQ(m.size(), 16u);
    EXPECT_EQ(*m.RequireInt("u8"), 200);
    EXPECT_EQ(*m.RequireInt("i8"), -5);
    EXPECT_EQ(*m.RequireInt("u16"), 60000);
    EXPECT_EQ(*m.RequireInt("i16"), -300);
    EXPECT_EQ(*m.RequireInt("u32"), 4000000000);
    EXPECT_EQ(*m.RequireInt("i32"), -7);
    EXPECT_EQ(*m.RequireInt("u64"), int64_t{1} << 40);
    EXPECT_EQ(*m.RequireInt("i64"), -9);
    EXPECT_EQ(*m.RequireDouble("f32"), 1e-5);  // the shortest decimal, not float's expansion
    EXPECT_EQ(*m.RequireDouble("f64"), 0.25);
    EXPECT_EQ(*m.RequireDouble("i32"), -7.0);
    EXPECT_EQ(**m.FindBool("bool"), true);
    EXPECT_EQ(*m.RequireString("string"), "text");
    EXPECT_THAT(**m.FindStrings("strings"), ElementsAre("a", "", "bc"));
    EXPECT_THAT(**m.FindFloats("floats"), ElementsAre(1.0f, 2.5f));
    EXPECT_THAT(**m.FindInts("ints"), ElementsAre(3, -4));
    EXPECT_TRUE((*m.FindInts("none"))->empty());
    EXPECT_FALSE(m.FindInt("absent")->has_value());
  }
}

TEST(GgufMetadata, WrongType_NamesKeyAndTypes) {
  GgufTestFile file;
  file.String("s", "x").U32("u", 1).Scalar("big", GgufType::kU64, ~uint64_t{0}).Strings("a", {"x"});
  const std::string bytes = file.Build();
  const auto parsed = ParseGguf(BytesOf(bytes));
  ASSERT_TRUE(parsed.ok());
  const GgufMetadata& m = parsed->metadata;
  const auto message = [](const auto& result) {
    return result.ok() ? "" : result.error().message();
  };
  EXPECT_THAT(message(m.FindInt("s")),
              HasSubstr("metadata 's': expected an integer below 2^63, found STRING"));
  EXPECT_THAT(message(m.FindInt("big")), HasSubstr("found U64"));
  EXPECT_THAT(message(m.FindDouble("s")), HasSubstr("expected a number"));
  EXPECT_THAT(message(m.FindBool("u")), HasSubstr("expected BOOL, found U32"));
  EXPECT_THAT(message(m.FindString("a")), HasSubstr("found an array of STRING"));
  EXPECT_THAT(message(m.FindStrings("s")), HasSubstr("expected an array of STRING, found STRING"));
  EXPECT_THAT(message(m.FindFloats("a")), HasSubstr("an array of F32"));
  EXPECT_THAT(message(m.FindInts("a")), HasSubstr("an array of I32"));
  EXPECT_THAT(message(m.RequireInt("absent")), HasSubstr("'absent' is missing"));
}

TEST(ParseGguf, Tensors_AreReversedAlignedViews) {
  GgufTestFile file;
  file.alignment = 64;
  file.U32("general.alignment", 64);
  file.Tensor("a", {2, 3}).Tensor("q", {4, 32}, 2).Tensor("scalar", {});
  const std::string bytes = file.Build();
  const auto parsed = ParseGguf(BytesOf(bytes));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  ASSERT_EQ(parsed->tensors.size(), 3u);
  EXPECT_EQ(parsed->header_bytes % 64, 0u);
  EXPECT_EQ(parsed->tensors[0].view.shape, Shape({2, 3}));
  EXPECT_EQ(parsed->tensors[0].view.bytes.data(), BytesOf(bytes).data() + parsed->header_bytes);
  EXPECT_EQ(parsed->tensors[1].view.dtype, DType::kQ4_0);
  EXPECT_EQ(parsed->tensors[1].view.bytes.size(), 4u * 18);
  EXPECT_EQ(parsed->tensors[2].view.bytes.size(), 4u);
}

TEST(ParseGguf, NestedArrays_AreSkippedWithinBounds) {
  std::string nested;
  GgufTestFile::Put(&nested, static_cast<uint32_t>(GgufType::kArray));
  GgufTestFile::Put(&nested, uint64_t{2});
  for (int i = 0; i < 2; ++i) {
    GgufTestFile::Put(&nested, static_cast<uint32_t>(GgufType::kU8));
    GgufTestFile::Put(&nested, uint64_t{3});
    nested += "abc";
  }
  GgufTestFile file;
  file.Raw("nested", 9, nested).U32("after", 5);
  const std::string bytes = file.Build();
  const auto parsed = ParseGguf(BytesOf(bytes));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(*parsed->metadata.RequireInt("after"), 5);

  std::string deep;
  for (int i = 0; i < 100'000; ++i) {
    GgufTestFile::Put(&deep, static_cast<uint32_t>(GgufType::kArray));
    GgufTestFile::Put(&deep, uint64_t{1});
  }
  ExpectError(GgufTestFile().Raw("deep", 9, deep).Build(), ErrorCode::kCorrupt,
              "nested too deeply");
}

TEST(ParseGguf, ForeignFile_SaysWhatItIs) {
  ExpectError("", ErrorCode::kCorrupt, "not a GGUF file");
  ExpectError("GGML....", ErrorCode::kCorrupt, "not a GGUF file");
  ExpectError("GGUF", ErrorCode::kCorrupt, "the version at byte 4");
  GgufTestFile file;
  file.version = 1;
  ExpectError(file.Build(), ErrorCode::kUnsupported, "GGUF version 1");
  file.version = 0x03000000;
  ExpectError(file.Build(), ErrorCode::kUnsupported, "big-endian");
}

TEST(ParseGguf, ImpossibleCounts_EndWithTheFile) {
  GgufTestFile file;
  file.extra_value_count = ~uint64_t{0} >> 1;
  ExpectError(file.Build(), ErrorCode::kCorrupt, "the file ends at byte");
  file.extra_value_count = 0;
  file.extra_tensor_count = ~uint64_t{0} >> 1;
  ExpectError(file.Build(), ErrorCode::kCorrupt, "the file ends at byte");
  std::string huge;
  GgufTestFile::Put(&huge, static_cast<uint32_t>(GgufType::kU64));
  GgufTestFile::Put(&huge, uint64_t{1} << 61);
  ExpectError(GgufTestFile().Raw("k", 9, huge).Build(), ErrorCode::kCorrupt,
              "metadata 'k': an array at byte");
  std::string strings;
  GgufTestFile::Put(&strings, static_cast<uint32_t>(GgufType::kString));
  GgufTestFile::Put(&strings, ~uint64_t{0});
  ExpectError(GgufTestFile().Raw("k", 9, strings).Build(), ErrorCode::kCorrupt, "cut short");
  std::string long_string;
  GgufTestFile::Put(&long_string, ~uint64_t{0} - 3);
  ExpectError(GgufTestFile().Raw("k", 8, long_string).Build(), ErrorCode::kCorrupt,
              "a string at byte");
}

TEST(ParseGguf, BadMetadata_NamesTheKey) {
  ExpectError(GgufTestFile().Raw("k", 13, "xxxx").Build(), ErrorCode::kCorrupt, "value type 13");
  ExpectError(GgufTestFile().U32("k", 1).U32("k", 1).Build(), ErrorCode::kCorrupt,
              "'k' is there twice");
  ExpectError(GgufTestFile().U32("general.alignment", 24).Build(), ErrorCode::kCorrupt,
              "general.alignment is 24");
  ExpectError(GgufTestFile().U32("general.alignment", 0).Build(), ErrorCode::kCorrupt,
              "power of two");
}

TEST(ParseGguf, BadTensor_NamesIt) {
  const auto with = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    return GgufTestFile().TensorAt("w", dims, type, offset, std::string(64, 'x')).Build();
  };
  constexpr auto kCorrupt = ErrorCode::kCorrupt;
  ExpectError(with({1, 1, 1, 1, 1}, 0, 0), kCorrupt, "tensor 'w': has 5 dimensions");
  ExpectError(with({~uint64_t{0}}, 0, 0), kCorrupt, "tensor 'w': dimension 18446744073709551615");
  ExpectError(with({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0), kCorrupt, "tensor 'w'");
  ExpectError(with({2, 33}, 2, 0), kCorrupt, "Q4_0 [2, 33]: the last dimension is not a multiple");
  ExpectError(with({4}, 0, 8), kCorrupt, "offset 8 is not a multiple of the alignment 32");
  ExpectError(with({4}, 0, 96), kCorrupt,
              "F32 [4] takes 16 bytes at offset 96, but the data section holds 64");
  ExpectError(with({17}, 0, 0), kCorrupt, "cut short");
  ExpectError(with({4}, 0, ~uint64_t{31}), kCorrupt, "tensor 'w'");
  ExpectError(with({256}, 21, 0), ErrorCode::kUnsupported,
              "tensor 'w': ggml type 21 (IQ3_S) is not supported");
  ExpectError(with({256}, 77, 0), ErrorCode::kUnsupported, "ggml type 77 (unknown)");
  ExpectError(GgufTestFile().Tensor("w", {1}).Tensor("w", {1}).Build(), kCorrupt,
              "'w' is described twice");
  ExpectError(GgufTestFile().Tensor("a", {16}).TensorAt("b", {4}, 0, 32, "").Build(), kCorrupt,
              "tensors 'a' and 'b' overlap at offset 32");
}

/// What opening does after mapping.
bool ParsesWhole(std::string_view bytes) {
  const auto file = ParseGguf(BytesOf(bytes));
  if (!file.ok()) {
    EXPECT_FALSE(file.error().message().empty());
    return false;
  }
  const auto config = GgufConfig(*file);
  return config.ok() && GgufTensors(*file, *config).ok() && ReadGgufVocabulary(file->metadata).ok();
}

std::string TinyModel() {
  GgufTestFile file;
  file.String("general.architecture", "llama")
      .U32("llama.block_count", 1)
      .U32("llama.context_length", 8);
  file.U32("llama.embedding_length", 4)
      .U32("llama.feed_forward_length", 4)
      .U32("llama.attention.head_count", 2);
  file.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f).U32("llama.expert_count", 2);
  file.U32("llama.expert_used_count", 1).String("tokenizer.ggml.model", "gpt2");
  file.Strings("tokenizer.ggml.tokens", {"a", "b"}).U32("tokenizer.ggml.eos_token_id", 1);
  file.Tensor("token_embd.weight", {2, 4}).Tensor("blk.0.attn_q.weight", {4, 4});
  file.Tensor("blk.0.ffn_up_exps.weight", {2, 4, 4});
  return file.Build();
}

TEST(ParseGguf, EveryTruncation_IsAnError) {
  const std::string good = TinyModel();
  ASSERT_TRUE(ParsesWhole(good));
  for (size_t size = 0; size < good.size(); ++size) {
    const std::vector<char> cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(ParsesWhole({cut.data(), cut.size()})) << size;
  }
}

TEST(ParseGguf, EveryCorruptByte_ParsesOrFailsCleanly) {
  const std::string good = TinyModel();
  std::mt19937 random(6);
  for (size_t at = 0; at < good.size(); ++at) {
    for (int round = 0; round < 6; ++round) {
      std::string bad = good;
      bad[at] = round == 0 ? '\0' : round == 1 ? '\xFF' : static_cast<char>(random());
      (void)ParsesWhole(bad);
    }
  }
}

}  // namespace
}  // namespace halfmoon::checkpoint
