// SPDX-License-Identifier: Apache-2.0
#include "hub/listing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::hub {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kCommit(40, 'a');
const std::string kSha256(64, 'B');

std::string HuggingFace(const std::string& siblings, const std::string& more = "") {
  return R"({"id": "org/name", "sha": ")" + kCommit + R"(", "siblings": [)" + siblings + "]" +
         more + "}";
}

TEST(HuggingFaceListing, EveryField_IsRead) {
  const auto repository = ParseHuggingFaceListing(
      HuggingFace(R"({"rfilename": "config.json", "size": 7, "blobId": ")" + kCommit + R"("},
         {"rfilename": "a/w.gguf", "size": 1, "blobId": ")" +
                      kCommit + R"(",
          "lfs": {"sha256": ")" +
                      kSha256 + R"(", "size": 5000000000, "pointerSize": 134}},
         {"rfilename": "bare"})",
                  R"(, "gated": "manual", "cardData": {"license": "other", "license_name": "own",
          "license_link": "https://x"}, "downloads": 5)"));
  ASSERT_TRUE(repository.ok()) << repository.error().message();
  EXPECT_EQ(repository->id, "org/name");
  EXPECT_EQ(repository->commit, kCommit);
  EXPECT_EQ(repository->license, "own");
  EXPECT_EQ(repository->license_link, "https://x");
  EXPECT_TRUE(repository->gated);
  ASSERT_EQ(repository->files.size(), 3u);
  EXPECT_EQ(repository->files[0].git_sha1, kCommit);
  EXPECT_EQ(repository->files[0].size_bytes, 7u);
  EXPECT_EQ(repository->files[1].path, "a/w.gguf");
  EXPECT_EQ(repository->files[1].size_bytes, 5000000000u);
  EXPECT_EQ(repository->files[1].sha256, std::string(64, 'b'));
  EXPECT_EQ(repository->files[1].git_sha1, "");  // That of the pointer says nothing.
  EXPECT_FALSE(repository->files[2].size_bytes.has_value());
  EXPECT_FALSE(repository->files[2].has_digest());
}

TEST(HuggingFaceListing, Licences_AreOneOrSeveral) {
  const auto license = [](const std::string& card) {
    const auto repository = ParseHuggingFaceListing(HuggingFace("", ", \"cardData\": " + card));
    return repository.ok() ? repository->license : "error: " + repository.error().message();
  };
  EXPECT_EQ(license(R"({"license": "mit"})"), "mit");
  EXPECT_EQ(license(R"({"license": ["mit", "apache-2.0"]})"), "mit, apache-2.0");
  EXPECT_EQ(license("null"), "");
  EXPECT_EQ(license("{}"), "");
  EXPECT_THAT(license(R"({"license": 5})"), HasSubstr("license"));
  EXPECT_FALSE(ParseHuggingFaceListing(HuggingFace("", ", \"gated\": false"))->gated);
}

TEST(HuggingFaceListing, WrongAnswers_AreCorruptAndNamed) {
  struct Case {
    std::string body;
    const char* named;
  };
  const std::string file = R"({"rfilename": "a"})";
  for (const Case& c : {
           Case{"", "hub's answer"},
           Case{"<html>", "hub's answer"},
           Case{"[]", "hub's answer"},
           Case{R"({"id": "a/b", "sha": "main", "siblings": []})", "sha"},
           Case{R"({"id": "a/b", "sha": ")" + kCommit + "\"}", "siblings"},
           Case{HuggingFace("5"), "siblings[0]"},
           Case{HuggingFace("{}"), "rfilename"},
           Case{HuggingFace(R"({"rfilename": "../x"})"), "../x"},
           Case{HuggingFace(R"({"rfilename": "/x"})"), "absolute"},
           Case{HuggingFace(file + "," + file), "twice"},
           Case{HuggingFace(file + R"(,{"rfilename": "a/b"})"), "a file and a folder"},
           Case{HuggingFace(R"({"rfilename": "a", "size": -1})"), "size"},
           Case{HuggingFace(R"({"rfilename": "a", "size": 99999999999999999})"), "size"},
           Case{HuggingFace(R"({"rfilename": "a", "size": "5"})"), "size"},
           Case{HuggingFace(R"({"rfilename": "a", "blobId": "../../x"})"), "blobId"},
           Case{HuggingFace(R"({"rfilename": "a", "lfs": {"sha256": "xyz"}})"), "sha256"},
       }) {
    const auto repository = ParseHuggingFaceListing(c.body);
    ASSERT_FALSE(repository.ok()) << c.body;
    EXPECT_EQ(repository.error().code(), ErrorCode::kCorrupt) << c.body;
    EXPECT_THAT(repository.error().message(), HasSubstr(c.named));
  }
}

TEST(ModelScopeListing, Files_AreReadAndFoldersPassedOver) {
  const auto repository = ParseModelScopeListing(
      R"({"Code": 200, "Success": true, "Data": {"Files": [
          {"Path": "sub", "Type": "tree", "Size": 0},
          {"Path": "sub/w", "Type": "blob", "Size": 9, "Sha256": ")" +
          kSha256 + R"("}]}})",
      "org/name", "master");
  ASSERT_TRUE(repository.ok()) << repository.error().message();
  EXPECT_EQ(repository->id, "org/name");
  EXPECT_EQ(repository->commit, "master");
  ASSERT_EQ(repository->files.size(), 1u);
  EXPECT_EQ(repository->files[0].path, "sub/w");
  EXPECT_EQ(repository->files[0].size_bytes, 9u);
  EXPECT_EQ(repository->files[0].sha256, std::string(64, 'b'));
}

TEST(ModelScopeListing, Failures_SayWhatTheHubSaid) {
  const auto error = [](const std::string& body) {
    const auto repository = ParseModelScopeListing(body, "org/name", "master");
    EXPECT_FALSE(repository.ok()) << body;
    return repository.ok() ? Error(ErrorCode::kInternal, "") : repository.error();
  };
  const Error told = error(R"({"Code": 10010205001, "Success": false, "Message": "no such repo"})");
  EXPECT_EQ(told.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(told.message(), HasSubstr("no such repo"));
  EXPECT_THAT(error(R"({"Data": {}})").message(), HasSubstr("Files"));
  EXPECT_THAT(error(R"({"Data": {"Files": [{"Path": "a/../../b"}]}})").message(),
              HasSubstr("a/../../b"));
  std::string cut = R"({"Data": {"Files": [{"Path": "x0"})";
  for (int i = 1; i < 3000; ++i) cut += R"(,{"Path": "x)" + std::to_string(i) + "\"}";
  EXPECT_EQ(error(cut + "]}}").code(), ErrorCode::kUnsupported);
}

TEST(ShardIndex, Names_AreDistinctAndChecked) {
  const auto shards =
      ParseShardIndex(R"({"metadata": {}, "weight_map": {"a": "2", "b": "1", "c": "2"}})");
  ASSERT_TRUE(shards.ok());
  EXPECT_THAT(*shards, ElementsAre("1", "2"));
  for (const char* bad :
       {"{}", R"({"weight_map": {"a": 1}})", R"({"weight_map": {"a": "../x"}})"}) {
    const auto refused = ParseShardIndex(bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_EQ(refused.error().code(), ErrorCode::kCorrupt);
  }
}

TEST(OllamaManifest, ModelAndLicence_AreFound) {
  const auto layer = [](const char* type, char digit) {
    return std::string(R"({"mediaType": "application/vnd.ollama.image.)") + type +
           R"(", "size": 5, "digest": "sha256:)" + std::string(64, digit) + "\"}";
  };
  const std::string body = R"({"config": {"digest": "sha256:)" + std::string(64, '0') +
                           R"("}, "layers": [)" + layer("model", '1') + "," +
                           layer("license", '2') + "," + layer("license", '3') + "]}";
  const auto manifest = ParseOllamaManifest(body);
  ASSERT_TRUE(manifest.ok()) << manifest.error().message();
  EXPECT_EQ(manifest->model_sha256, std::string(64, '1'));
  EXPECT_EQ(manifest->model_bytes, 5u);
  EXPECT_EQ(manifest->license_sha256, std::string(64, '2'));
  const auto digests = ParseOllamaDigests(body);
  ASSERT_TRUE(digests.ok());
  EXPECT_EQ(digests->size(), 4u);

  const auto code = [&](const std::string& layers) {
    const auto refused = ParseOllamaManifest("{\"layers\": [" + layers + "]}");
    return refused.ok() ? ErrorCode::kInternal : refused.error().code();
  };
  EXPECT_EQ(code(layer("license", '2')), ErrorCode::kUnsupported);
  EXPECT_EQ(code(layer("model", '1') + "," + layer("model", '2')), ErrorCode::kUnsupported);
  EXPECT_EQ(code(layer("model", 'x')), ErrorCode::kCorrupt);
  EXPECT_EQ(code("5"), ErrorCode::kCorrupt);
  EXPECT_EQ(ParseOllamaDigests("{}").error().code(), ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace halfmoon::hub
