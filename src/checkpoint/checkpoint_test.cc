// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/temporary_folder_for_test.h"
#include "checkpoint/gguf_test_file.h"
#include "checkpoint/safetensors_writer.h"

namespace halfmoon::checkpoint {
namespace {

namespace fs = std::filesystem;
using tensor::DType;
using tensor::Shape;
using testing::HasSubstr;

const fs::path kGolden = HALFMOON_GOLDEN_DIR;

void ExpectOpenError(const fs::path& path, ErrorCode code, std::string_view message) {
  const auto opened = Open(path);
  ASSERT_FALSE(opened.ok()) << message;
  EXPECT_EQ(opened.error().code(), code) << opened.error().message();
  EXPECT_THAT(opened.error().message(), HasSubstr(message));
}

void WriteTensor(const fs::path& path, const std::string& name, uint8_t fill,
                 size_t size = 20'000) {
  const std::vector<uint8_t> bytes(size, fill);
  const auto shape = Shape({static_cast<int64_t>(size)});
  ASSERT_TRUE(
      WriteSafetensors(path, {{name, {DType::kU8, shape, std::as_bytes(std::span(bytes))}}}).ok());
}

TEST(Open, EveryGoldenModel_HasItsTensors) {
  struct Model {
    const char* folder;
    size_t num_tensors;
    size_t size_bytes;
  };
  for (const Model& model :
       {Model{"llama/llama3_rope_untied", 30, 800064}, Model{"mixtral/base", 96, 1283904},
        Model{"qwen3_moe/norm_topk", 138, 1470912}, Model{"qwen3/dense", 35, 732864}}) {
    const auto opened = Open(kGolden / model.folder);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    const Checkpoint& checkpoint = **opened;
    EXPECT_EQ(checkpoint.format(), "safetensors");
    EXPECT_EQ(checkpoint.path(), kGolden / model.folder);
    EXPECT_EQ(checkpoint.size_bytes(), model.size_bytes) << model.folder;
    EXPECT_EQ(checkpoint.gguf_vocabulary(), nullptr);
    EXPECT_EQ(checkpoint.chat_template(), "");
    EXPECT_EQ(checkpoint.config().at("hidden_size"), 96);
    const std::vector<std::string> names = checkpoint.Names();
    EXPECT_EQ(names.size(), model.num_tensors) << model.folder;
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    for (const std::string& name : names) {
      const StoredTensor* stored = checkpoint.Find(name);
      ASSERT_NE(stored, nullptr);
      EXPECT_EQ(stored->view.dtype, DType::kBF16);
      EXPECT_EQ(stored->StoredRow(5), 5);
    }
    EXPECT_EQ(checkpoint.Find("model.norm"), nullptr);
    checkpoint.Prefetch();
    checkpoint.PrefetchOnly([](std::string_view name) { return name == "model.norm.weight"; });
    for (const std::string& name : names) {
      const std::span<const std::byte> bytes = checkpoint.Find(name)->view.bytes;
      const std::optional<FileRange> range = checkpoint.Locate(bytes);
      ASSERT_TRUE(range.has_value()) << name;
      EXPECT_EQ(range->size_bytes, bytes.size());
      std::ifstream file(checkpoint.files()[range->file], std::ios::binary);
      std::string content(bytes.size(), '\0');
      file.seekg(static_cast<std::streamoff>(range->offset));
      file.read(content.data(), static_cast<std::streamsize>(content.size()));
      EXPECT_EQ(std::memcmp(content.data(), bytes.data(), bytes.size()), 0) << name;
    }
    const std::byte elsewhere[1] = {};
    EXPECT_FALSE(checkpoint.Locate(elsewhere).has_value());
  }
}

TEST(Open, SafetensorsFile_ReadsConfigBesideIt) {
  const auto opened = Open(kGolden / "mixtral/base/model.safetensors");
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ((*opened)->config().at("model_type"), "mixtral");
  const TemporaryFolder folder;
  WriteTensor(folder.path() / "alone.safetensors", "a", 1);
  ExpectOpenError(folder.path() / "alone.safetensors", ErrorCode::kNotFound, "config.json");
  folder.Write("config.json", "{");
  ExpectOpenError(folder.path() / "alone.safetensors", ErrorCode::kInvalidArgument,
                  "config.json: not JSON");
}

TEST(Open, GgufFileOrFolder_IsTranslated) {
  const TemporaryFolder folder;
  GgufTestFile file = SmallGgufModel("qwen3moe", 4);
  file.String("tokenizer.chat_template", "{{ messages }}").String("tokenizer.ggml.model", "gpt2");
  file.Strings("tokenizer.ggml.tokens", {"a", "b"});
  const fs::path path = folder.Write("m.gguf", file.Build());
  // Named by digest, as some stores do: the content decides.
  const fs::path nameless = folder.Write("sha256-0123", file.Build());
  for (const fs::path& from : {path, folder.path(), nameless}) {
    const auto opened = Open(from);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    EXPECT_EQ((*opened)->format(), "gguf");
    EXPECT_EQ((*opened)->config().at("model_type"), "qwen3_moe");
    EXPECT_EQ((*opened)->chat_template(), "{{ messages }}");
    ASSERT_NE((*opened)->gguf_vocabulary(), nullptr);
    EXPECT_EQ((*opened)->gguf_vocabulary()->tokens.size(), 2u);
    const StoredTensor* up = (*opened)->Find("model.layers.1.mlp.experts.3.up_proj.weight");
    ASSERT_NE(up, nullptr);
    EXPECT_EQ(up->view.shape, Shape({32, 64}));
    float first;
    std::memcpy(&first, up->view.bytes.data(), sizeof(first));
    EXPECT_EQ(first, 3 * 32 * 64 + 1);
  }
}

TEST(Open, GgufLicense_IsThatOfTheMetadata) {
  const TemporaryFolder folder;
  using Values = std::vector<std::pair<std::string, std::string>>;
  const auto license_of = [&](const Values& values) {
    GgufTestFile file = SmallGgufModel("qwen3moe", 4);
    for (const auto& [key, value] : values) file.String(key, value);
    const auto opened = Open(folder.Write("m.gguf", file.Build()));
    EXPECT_TRUE(opened.ok());
    return (*opened)->license();
  };
  EXPECT_EQ(license_of({}).name, "");
  EXPECT_EQ(license_of({{"general.license", "apache-2.0"}}).name, "apache-2.0");
  const StatedLicense own = license_of({{"general.license", "other"},
                                        {"general.license.name", "house-rules"},
                                        {"general.license.link", "https://x/rules"}});
  EXPECT_EQ(own.name, "house-rules");
  EXPECT_EQ(own.link, "https://x/rules");
}

TEST(Open, NothingToOpen_SaysWhatWasExpected) {
  ExpectOpenError("no/such/model", ErrorCode::kNotFound, "no/such/model");
  const TemporaryFolder folder;
  ExpectOpenError(folder.path(), ErrorCode::kNotFound, "expected model.safetensors");
  ExpectOpenError(folder.Write("notes.txt", "hello"), ErrorCode::kInvalidArgument,
                  "neither a .safetensors nor a GGUF");
  ExpectOpenError(folder.Write("a.gguf", "hello"), ErrorCode::kCorrupt, "a.gguf: not a GGUF file");
  ExpectOpenError(folder.Write("empty.gguf", ""), ErrorCode::kCorrupt,
                  "empty.gguf: not a GGUF file");
  ExpectOpenError(folder.path(), ErrorCode::kInvalidArgument,
                  "2 .gguf files; name the one to open");
}

TEST(Open, CorruptGguf_NamesFileAndTensor) {
  const TemporaryFolder folder;
  std::string bytes = SmallGgufModel("llama").Build();
  bytes.resize(bytes.size() - 1000);
  ExpectOpenError(folder.Write("cut.gguf", bytes), ErrorCode::kCorrupt,
                  "cut.gguf: tensor 'blk.1.ffn_down.weight'");
  ExpectOpenError(
      folder.Write("kind.gguf", SmallGgufModel("llama").TensorAt("x", {256}, 16, 0, "").Build()),
      ErrorCode::kUnsupported, "kind.gguf: tensor 'x': ggml type 16 (IQ2_XXS)");
}

class ShardedTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_.Write("config.json", "{}");
    WriteTensor(folder_.path() / "s1.safetensors", "a", 1);
    WriteTensor(folder_.path() / "s2.safetensors", "b", 2);
  }
  void WriteIndex(std::string_view weight_map) {
    folder_.Write("model.safetensors.index.json",
                  R"({"weight_map":)" + std::string(weight_map) + "}");
  }
  TemporaryFolder folder_;
};

TEST_F(ShardedTest, TensorsOfSeveralFiles_AreOneView) {
  WriteIndex(R"({"b":"s2.safetensors","a":"s1.safetensors"})");
  const auto opened = Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ((*opened)->Names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ((*opened)->Find("b")->view.bytes[0], std::byte{2});
}

TEST_F(ShardedTest, IndexThatReachesOutside_IsRefused) {
  const TemporaryFolder other;
  WriteTensor(other.path() / "s.safetensors", "a", 1);
  const std::string outside = (other.path() / "s.safetensors").string();
  for (const std::string& name :
       {std::string("../s1.safetensors"), outside, std::string("sub/s1.safetensors"),
        std::string(".."), std::string("."), std::string(""), std::string("..\\\\s1")}) {
    WriteIndex(R"({"a":")" + name + R"("})");
    ExpectOpenError(folder_.path(), ErrorCode::kCorrupt,
                    "is not the name of a file in this folder");
  }
}

TEST_F(ShardedTest, BrokenIndex_NamesFileAndTensor) {
  WriteIndex(R"({"a":"s3.safetensors"})");
  ExpectOpenError(folder_.path(), ErrorCode::kNotFound, "s3.safetensors");
  WriteIndex(R"({"a":"s1.safetensors","b":"s1.safetensors"})");
  ExpectOpenError(folder_.path(), ErrorCode::kCorrupt, "s1.safetensors: tensor 'b' is missing");
  WriteIndex(R"({"a":7})");
  ExpectOpenError(folder_.path(), ErrorCode::kCorrupt,
                  "tensor 'a': expected a file name, found number");
  WriteIndex("[]");
  ExpectOpenError(folder_.path(), ErrorCode::kInvalidArgument,
                  "'weight_map': expected an object, found array");
  WriteIndex("null");
  ExpectOpenError(folder_.path(), ErrorCode::kCorrupt, "'weight_map' is missing");
  folder_.Write("model.safetensors.index.json", "{");
  ExpectOpenError(folder_.path(), ErrorCode::kInvalidArgument, "index.json: not JSON");
  WriteIndex(R"({"a":"s1.safetensors"})");
  folder_.Write("s1.safetensors", "short");
  ExpectOpenError(folder_.path(), ErrorCode::kCorrupt,
                  "s1.safetensors: not a safetensors file: 5 bytes");
}

TEST(StoredTensor, RopePairs_UndoThePermutation) {
  StoredTensor stored;
  stored.row_order = RowOrder::kRopePairs;
  stored.rows_per_head = 6;
  // Per head of 6: canonical rows 0, 1, 2 are stored at 0, 2, 4, rows 3, 4, 5 at 1, 3, 5.
  const std::vector<int64_t> expected = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
  for (int64_t row = 0; row < 12; ++row)
    EXPECT_EQ(stored.StoredRow(row), expected[static_cast<size_t>(row)]);
}

std::string FingerprintOf(const fs::path& path) {
  const auto opened = Open(path);
  EXPECT_TRUE(opened.ok());
  return opened.ok() ? (*opened)->fingerprint() : "";
}

TEST(Fingerprint, SameContentElsewhere_IsEqual) {
  const TemporaryFolder first, second;
  for (const TemporaryFolder* folder : {&first, &second}) {
    folder->Write("config.json", R"({"hidden_size":1})");
    WriteTensor(folder->path() / "model.safetensors", "a", 1);
  }
  const std::string fingerprint = FingerprintOf(first.path());
  EXPECT_EQ(fingerprint.size(), 32u);
  EXPECT_EQ(fingerprint, FingerprintOf(second.path()));
  EXPECT_EQ(fingerprint, FingerprintOf(first.path() / "model.safetensors"));
}

TEST(Fingerprint, AnyOtherContent_Differs) {
  const TemporaryFolder folder;
  const fs::path weights = folder.path() / "model.safetensors";
  folder.Write("config.json", R"({"hidden_size":1})");
  WriteTensor(weights, "a", 1);
  std::vector<std::string> seen = {FingerprintOf(folder.path())};
  const auto expect_new = [&] {
    const std::string fingerprint = FingerprintOf(folder.path());
    EXPECT_EQ(std::count(seen.begin(), seen.end(), fingerprint), 0);
    seen.push_back(fingerprint);
  };
  WriteTensor(weights, "a", 2);
  expect_new();
  WriteTensor(weights, "b", 1);
  expect_new();
  WriteTensor(weights, "a", 1, 20'001);
  expect_new();
  WriteTensor(weights, "a", 1);
  folder.Write("config.json", R"({"hidden_size":2})");
  expect_new();
}

}  // namespace
}  // namespace halfmoon::checkpoint
