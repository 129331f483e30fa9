// SPDX-License-Identifier: Apache-2.0
#include "hub/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::hub {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Repository With(const std::vector<std::string>& paths) {
  Repository repository{.id = "org/name"};
  for (const std::string& path : paths) repository.files.push_back({.path = path});
  return repository;
}

std::vector<std::string> Paths(const Selection& selection) {
  std::vector<std::string> paths;
  for (const RemoteFile& file : selection.files) paths.push_back(file.path);
  return paths;
}

ReadRemote Index(const std::string& map) {
  return
      [map](const RemoteFile&) { return Result<std::string>("{\"weight_map\": {" + map + "}}"); };
}

TEST(GgufNames, Quantisation_IsWhatTheNameEndsWith) {
  const std::pair<const char*, const char*> cases[] = {
      {"Qwen3-30B-A3B-Q4_K_M.gguf", "Q4_K_M"},
      {"model.Q8_0.gguf", "Q8_0"},
      {"smollm2_135m_q4_1.gguf", "Q4_1"},
      {"m-UD-Q4_K_XL.gguf", "Q4_K_XL"},
      {"m-IQ4_XS.gguf", "IQ4_XS"},
      {"m-bf16.GGUF", "BF16"},
      {"m-TQ1_0.gguf", "TQ1_0"},
      {"m-mxfp4.gguf", "MXFP4"},
      {"Q8_0/m-Q4_0-00001-of-00002.gguf", "Q4_0"},
      {"Qwen3-0.6B.gguf", ""},
      {"model.gguf", ""},
      {"Q.gguf", ""},
      {"iq.gguf", ""},
  };
  for (const auto& [path, quant] : cases) EXPECT_EQ(QuantOfFileName(path), quant) << path;
}

TEST(GgufNames, PartsOfAModel_AreOneModel) {
  const auto models = GroupGguf({"a-Q4_0-00002-of-00003.gguf", "a-Q4_0-00001-of-00003.gguf",
                                 "a-Q8_0.gguf", "mmproj-a-F16.gguf", "a.imatrix.gguf", "x.bin"});
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].quant, "Q4_0");
  EXPECT_THAT(models[0].paths,
              ElementsAre("a-Q4_0-00001-of-00003.gguf", "a-Q4_0-00002-of-00003.gguf"));
  EXPECT_FALSE(models[0].complete());
  EXPECT_TRUE(models[1].complete());
}

TEST(GgufChoice, NamesAndDefaults) {
  const auto models = GroupGguf({"d/a-Q8_0.gguf", "d/a-Q4_K_M.gguf", "d/a-UD-Q4_K_XL.gguf"});
  const auto stem = [&](const char* quant) {
    const auto chosen = ChooseGguf(models, quant);
    return chosen.ok() ? chosen->stem : chosen.error().message();
  };
  EXPECT_EQ(stem(""), "d/a-Q4_K_M");
  EXPECT_EQ(stem("q8_0"), "d/a-Q8_0");
  EXPECT_EQ(stem("UD-Q4_K_XL"), "d/a-UD-Q4_K_XL");
  EXPECT_EQ(stem("a-Q8_0.gguf"), "d/a-Q8_0");
  EXPECT_EQ(stem("d/a-Q8_0"), "d/a-Q8_0");
  EXPECT_THAT(stem("Q2_K"), HasSubstr("there is Q4_K_M, Q8_0"));
  EXPECT_EQ(ChooseGguf(GroupGguf({"only.gguf"}), "")->stem, "only");
  EXPECT_THAT(ChooseGguf(GroupGguf({"x.gguf", "y.gguf"}), "").error().message(),
              HasSubstr("choose one with :NAME of x, y"));
}

TEST(Selection, OneSafetensorsFile_AndItsCompanions) {
  const auto selection =
      SelectFiles(With({"model.safetensors", "consolidated.safetensors", "config.json",
                        "tokenizer.json", "tokenizer.model", "README.md", "LICENSE", "run.py",
                        "merges.txt", "chat_template.jinja", "pytorch_model.bin", "a.png",
                        ".gitattributes", "onnx/model.onnx", "original/params.json"}),
                  "", Index(""));
  ASSERT_TRUE(selection.ok()) << selection.error().message();
  EXPECT_THAT(Paths(*selection),
              ElementsAre("LICENSE", "README.md", "chat_template.jinja", "config.json",
                          "merges.txt", "tokenizer.json", "tokenizer.model", "model.safetensors"));
  EXPECT_EQ(selection->format, "safetensors");
  EXPECT_EQ(selection->weights, "");
}

TEST(Selection, Shards_AreThoseOfTheIndex) {
  const std::vector<std::string> paths = {"model.safetensors.index.json", "m-1.safetensors",
                                          "m-2.safetensors", "stray.safetensors"};
  const auto selection =
      SelectFiles(With(paths), "", Index(R"("a": "m-1.safetensors", "b": "m-2.safetensors")"));
  ASSERT_TRUE(selection.ok());
  EXPECT_THAT(Paths(*selection),
              ElementsAre("model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors"));
  const auto missing = SelectFiles(With(paths), "", Index(R"("a": "m-3.safetensors")"));
  EXPECT_EQ(missing.error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("m-3.safetensors"));
  const auto hostile = SelectFiles(With(paths), "", Index(R"("a": "../x")"));
  EXPECT_EQ(hostile.error().code(), ErrorCode::kCorrupt);
  const auto unread = SelectFiles(With(paths), "", [](const RemoteFile&) -> Result<std::string> {
    return Error(ErrorCode::kUnavailable, "gone");
  });
  EXPECT_EQ(unread.error().code(), ErrorCode::kUnavailable);
}

TEST(Selection, Gguf_WhereAskedForOrAlone) {
  const Repository both = With({"model.safetensors", "config.json", "m-Q4_0.gguf", "m-Q8_0.gguf"});
  EXPECT_EQ(SelectFiles(both, "", Index(""))->format, "safetensors");
  EXPECT_EQ(SelectFiles(both, "safetensors", Index(""))->format, "safetensors");
  const auto gguf = SelectFiles(both, "Q8_0", Index(""));
  ASSERT_TRUE(gguf.ok());
  EXPECT_EQ(gguf->format, "gguf");
  EXPECT_EQ(gguf->weights, "m-Q8_0.gguf");
  EXPECT_THAT(gguf->other_quants, ElementsAre("Q4_0"));
  EXPECT_THAT(Paths(*gguf), ElementsAre("config.json", "m-Q8_0.gguf"));
}

TEST(Selection, WhatCannotBeHad_IsNamed) {
  const auto message = [](const std::vector<std::string>& paths, const char* quant) {
    const auto selection = SelectFiles(With(paths), quant, Index(""));
    EXPECT_FALSE(selection.ok());
    return selection.ok() ? "" : selection.error().message();
  };
  EXPECT_THAT(message({"config.json"}, ""), HasSubstr("neither model.safetensors"));
  EXPECT_THAT(message({"pytorch_model.bin"}, ""), HasSubstr("pickled"));
  EXPECT_THAT(message({"model.safetensors"}, "Q4_0"), HasSubstr("leave out ':Q4_0'"));
  EXPECT_THAT(message({"m-Q4_0.gguf"}, "safetensors"), HasSubstr("neither"));
  EXPECT_THAT(message({"m-Q4_0-00001-of-00002.gguf"}, ""), HasSubstr("split into 2 files"));
}

}  // namespace
}  // namespace halfmoon::hub
