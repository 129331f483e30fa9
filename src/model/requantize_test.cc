// SPDX-License-Identifier: Apache-2.0
#include "model/requantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "model/matrix_source.h"
#include "model/model.h"
#include "quant/quant.h"

namespace halfmoon::model {
namespace {

namespace fs = std::filesystem;
using tensor::DType;
using testing::HasSubstr;

class RequantizeTest : public testing::Test {
 protected:
  RequantizeTest() {
    std::string name = (fs::temp_directory_path() / "requantize_test.XXXXXX").string();
    HM_CHECK(::mkdtemp(name.data()) != nullptr, name);
    folder = name;
  }
  ~RequantizeTest() override { fs::remove_all(folder); }

  static fs::path Golden(const std::string& name) { return fs::path(HALFMOON_GOLDEN_DIR) / name; }

  Result<RequantizeSummary> Run(const fs::path& from, const fs::path& to, const std::string& type,
                                bool force = false) {
    tensors.clear();
    RequantizeOptions options{.type = type, .force = force};
    options.report = [&](const RequantizedTensor& t, size_t done, size_t total) {
      tensors[t.name] = t;
      EXPECT_LE(done, total);
    };
    return Requantize(from, to, options, &pool);
  }
  std::string Message(const fs::path& from, const fs::path& to, const std::string& type) {
    const auto result = Run(from, to, type);
    return result.ok() ? "" : std::string(result.error().message());
  }
  size_t FilesHere() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
  }

  /// A GGUF file with one tensor of each kind.
  fs::path WriteGguf(float odd_value = 0.5f) {
    const auto path = folder / "source.gguf";
    std::vector<float> values(64 * 256, 0.5f);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
    values[300] = odd_value;
    const std::vector<checkpoint::GgufEntry> entries = {
        {"token_embd.weight", DType::kF32, {64, 256}},
        {"blk.0.attn_norm.weight", DType::kF32, {256}},
        {"blk.0.attn_q.weight", DType::kF32, {64, 256}},
        {"blk.0.ffn_gate_exps.weight", DType::kF32, {2, 32, 256}},
        {"blk.0.ffn_down.weight", DType::kF32, {256, 64}},
        {"blk.0.ffn_up.weight", DType::kF32, {256, 6}},
        {"blk.0.ffn_gate_inp.weight", DType::kF32, {2, 256}},
    };
    checkpoint::GgufMetadataBuilder metadata;
    const uint32_t number = 2;
    checkpoint::GgufValue heads{.type = checkpoint::GgufType::kU32,
                                .payload = std::as_bytes(std::span(&number, 1))};
    const std::string text("\5\0\0\0\0\0\0\0llama", 13);
    metadata.Copy("general.architecture", {.type = checkpoint::GgufType::kString,
                                           .payload = std::as_bytes(std::span(text))});
    for (const char* key :
         {"llama.attention.head_count", "llama.block_count", "llama.context_length",
          "llama.embedding_length", "llama.feed_forward_length", "llama.expert_count",
          "llama.expert_used_count"}) {
      metadata.Copy(key, heads);
    }
    const float eps = 1e-5f;
    metadata.Copy(
        "llama.attention.layer_norm_rms_epsilon",
        {.type = checkpoint::GgufType::kF32, .payload = std::as_bytes(std::span(&eps, 1))});
    auto writer = checkpoint::GgufWriter::Create(path, metadata, entries, 32);
    HM_CHECK(writer.ok(), writer.error().message());
    for (const checkpoint::GgufEntry& entry : entries) {
      const auto count = static_cast<size_t>(*entry.shape.NumElements());
      HM_CHECK(writer->Append(std::as_bytes(std::span(values).first(count))).ok(), entry.name);
    }
    HM_CHECK(writer->Finish().ok(), path.string());
    return path;
  }

  ThreadPool pool{2};
  fs::path folder;
  std::map<std::string, RequantizedTensor> tensors;
};

TEST_F(RequantizeTest, Gguf_LinearWeightsChangeTheRestStays) {
  const fs::path source = WriteGguf();
  const fs::path out = folder / "out.gguf";
  const auto summary = Run(source, out, "Q4_K");
  ASSERT_TRUE(summary.ok()) << summary.error().message();
  EXPECT_EQ(summary->num_tensors, 7);
  EXPECT_EQ(summary->num_changed, 3);
  EXPECT_EQ(tensors.at("blk.0.attn_q.weight").to, "Q4_K");
  EXPECT_EQ(tensors.at("blk.0.ffn_gate_exps.weight").to, "Q4_K");
  EXPECT_EQ(tensors.at("blk.0.ffn_down.weight").to, "Q5_0");  // rows of 64
  for (const char* name : {"token_embd.weight", "blk.0.attn_norm.weight", "blk.0.ffn_up.weight",
                           "blk.0.ffn_gate_inp.weight"}) {
    EXPECT_EQ(tensors.at(name).to, "F32") << name;
  }
  const auto mapped = MappedFile::Open(out);
  ASSERT_TRUE(mapped.ok());
  const auto file = checkpoint::ParseGguf(mapped->bytes());
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->metadata.FindInt("general.file_type").value(), 14);
  EXPECT_EQ(file->metadata.FindString("general.architecture").value(), "llama");
  // What is in the file is what the report says of its error.
  const auto original = MappedFile::Open(source);
  const auto before = checkpoint::ParseGguf(original->bytes());
  for (size_t i = 0; i < file->tensors.size(); ++i) {
    const auto& view = file->tensors[i].view;
    const auto count = static_cast<size_t>(*view.shape.NumElements());
    std::vector<float> from(count), to(count);
    std::memcpy(from.data(), before->tensors[i].view.bytes.data(), count * sizeof(float));
    ASSERT_TRUE(
        quant::DecodeRow(view.dtype, view.bytes.data(), static_cast<int64_t>(count), to.data())
            .ok());
    double error = 0.0, norm = 0.0, largest = 0.0;
    for (size_t j = 0; j < count; ++j) {
      const double difference = double{to[j]} - from[j];
      error += difference * difference;
      norm += double{from[j]} * from[j];
      largest = std::max(largest, std::abs(difference));
    }
    const RequantizedTensor& report = tensors.at(std::string(file->tensors[i].name));
    EXPECT_NEAR(report.relative_rms, std::sqrt(error / norm), 1e-9) << report.name;
    EXPECT_EQ(report.max_abs, largest) << report.name;
    EXPECT_EQ(report.to_bytes, view.bytes.size());
  }
}

TEST_F(RequantizeTest, Gguf_SmallerTypesStay) {
  const fs::path source = WriteGguf();
  const fs::path small = folder / "small.gguf";
  ASSERT_TRUE(Run(source, small, "q4_0").ok());
  const auto again = Run(small, folder / "again.gguf", "q8_0");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->num_changed, 0);
  EXPECT_EQ(again->from_bytes, again->to_bytes);
}

TEST_F(RequantizeTest, Gguf_WeightThatIsNotFinite_ErrorNamesItAndLeavesNothing) {
  const fs::path source = WriteGguf(std::nanf(""));
  const std::string message = Message(source, folder / "out.gguf", "q8_0");
  EXPECT_THAT(message, HasSubstr("tensor 'blk.0.attn_q.weight'"));
  EXPECT_THAT(message, HasSubstr("value [1, 44] is not finite"));
  EXPECT_EQ(FilesHere(), 1u);
}

TEST_F(RequantizeTest, Safetensors_ModelLoadsAndIsClose) {
  for (const std::string name : {"qwen3_moe/norm_topk", "deepseek_v3/bf16"}) {
    for (const std::string type : {"int8", "INT4"}) {
      const fs::path out = folder / (fs::path(name).parent_path().string() + type);
      const auto summary = Run(Golden(name), out, type);
      ASSERT_TRUE(summary.ok()) << summary.error().message();
      EXPECT_LT(summary->to_bytes, summary->from_bytes);
      EXPECT_LT(summary->relative_rms, type == "int8" ? 0.006 : 0.09);
      EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
      auto opened = checkpoint::Open(out);
      ASSERT_TRUE(opened.ok()) << opened.error().message();
      const auto source = checkpoint::Open(Golden(name));
      // Every weight is there, and what changed decodes to within its error.
      EXPECT_EQ((*opened)->Names(), (*source)->Names());
      for (const auto& [tensor_name, report] : tensors) {
        if (report.from == report.to) continue;
        const int64_t rows = report.shape[0];
        const int64_t cols = report.shape[1];
        const auto before = MatrixSource::Find(**source, tensor_name, rows, cols);
        const auto after = MatrixSource::Find(**opened, tensor_name, rows, cols);
        ASSERT_TRUE(before.ok() && after.ok()) << tensor_name;
        std::vector<float> from(static_cast<size_t>(cols)), to(from);
        double largest = 0.0;
        for (int64_t row = 0; row < rows; ++row) {
          ASSERT_TRUE(before->DecodeRow(row, from).ok() && after->DecodeRow(row, to).ok());
          for (size_t i = 0; i < from.size(); ++i) {
            largest = std::max(largest, std::abs(double{from[i]} - to[i]));
          }
        }
        EXPECT_EQ(largest, report.max_abs) << tensor_name;
      }
      const auto model = Model::Load(std::move(*opened), &pool, {});
      EXPECT_TRUE(model.ok()) << model.error().message();
    }
  }
}

TEST_F(RequantizeTest, Safetensors_PublishedScalesBecomeGroups) {
  const fs::path out = folder / "out";
  const auto summary = Run(Golden("deepseek_v3/fp8"), out, "int4");
  ASSERT_TRUE(summary.ok()) << summary.error().message();
  EXPECT_EQ(tensors.at("model.layers.0.mlp.gate_proj.weight").to, "INT4");
  // Rows that are not whole groups are decoded, without loss.
  const RequantizedTensor& odd = tensors.at("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(odd.to, "F32");
  EXPECT_EQ(odd.max_abs, 0.0);
  EXPECT_EQ(tensors.at("lm_head.weight").to, "BF16");
  // Groups of its own form are taken over as they are.
  const auto again = Run(out, folder / "again", "int4");
  ASSERT_TRUE(again.ok()) << again.error().message();
  EXPECT_EQ(again->num_changed, 0);
  EXPECT_THAT(Message(out, folder / "wider", "int8"), HasSubstr("has 4 bits a weight already"));
  EXPECT_THAT(Message(Golden("deepseek_v3/fp8"), folder / "fp8", "int8"),
              HasSubstr("has 8 bits a weight already"));
}

TEST_F(RequantizeTest, WhatIsThere_IsReplacedByForceOnly) {
  const fs::path source = WriteGguf();
  const fs::path out = folder / "out.gguf";
  ASSERT_TRUE(Run(source, out, "q4_0").ok());
  EXPECT_THAT(Message(source, out, "q8_0"), HasSubstr("exists already"));
  EXPECT_TRUE(Run(source, out, "q8_0", /*force=*/true).ok());
  EXPECT_THAT(Message(source, source, "q8_0"), HasSubstr("is the source itself"));
  const fs::path model = folder / "model";
  ASSERT_TRUE(Run(Golden("qwen3/dense"), model, "int4").ok());
  EXPECT_THAT(Message(Golden("qwen3/dense"), model, "int4"), HasSubstr("exists already"));
  EXPECT_TRUE(Run(Golden("qwen3/dense"), model, "int8", /*force=*/true).ok());
  // A folder that is no model's is nobody's to delete.
  const fs::path other = folder / "other";
  fs::create_directory(other);
  std::ofstream(other / "letter.txt") << "dear reader";
  const auto refused = Run(Golden("qwen3/dense"), other, "int8", /*force=*/true);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message(), HasSubstr("is not a model's folder"));
  EXPECT_TRUE(fs::exists(other / "letter.txt"));
  EXPECT_EQ(FilesHere(), 4u);
}

TEST_F(RequantizeTest, BadRequests_ErrorsSayWhatIsPossible) {
  const fs::path source = WriteGguf();
  EXPECT_THAT(Message(source, folder / "o.gguf", "int4"), HasSubstr("those are q8_0 q6_k"));
  EXPECT_THAT(Message(Golden("qwen3/dense"), folder / "o", "q4_k"), HasSubstr("int8 int4"));
  EXPECT_THAT(Message(Golden("qwen3/dense"), folder / "o.gguf", "int4"),
              HasSubstr("become a folder"));
  EXPECT_THAT(Message(folder / "nothing", folder / "o", "int4"), HasSubstr("no such file"));
  EXPECT_THAT(Message(source, folder / "missing/o.gguf", "q4_0"), HasSubstr("missing"));
  EXPECT_EQ(FilesHere(), 1u);
}

}  // namespace
}  // namespace halfmoon::model
