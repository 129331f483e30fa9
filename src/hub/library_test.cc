// SPDX-License-Identifier: Apache-2.0
// The caches as their tools leave them: listing, finding and removing.
#include "hub/library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temporary_folder_for_test.h"
#include "hub/removal.h"

namespace halfmoon::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr char kOld[] = "1111111111111111111111111111111111111111";
constexpr char kNew[] = "2222222222222222222222222222222222222222";

/// Caches of a machine, written as the hubs' tools do.
class Library : public ::testing::Test {
 protected:
  Library() {
    environment_.hf_cache = folder_.path() / "hf";
    environment_.modelscope_cache = folder_.path() / "ms";
    environment_.ollama_models = {folder_.path() / "ollama"};
  }

  /// A file of a snapshot: content among the blobs, named by itself, and a link to it.
  void HuggingFace(const std::string& id, const std::string& commit, const std::string& path,
                   const std::string& content) {
    const std::string root = "hf/models--" + id;
    folder_.Write(root + "/blobs/" + content, content);
    const fs::path entry = folder_.path() / root / "snapshots" / commit / path;
    fs::create_directories(entry.parent_path());
    const fs::path blob = folder_.path() / root / "blobs" / content;
    fs::create_symlink(blob.lexically_relative(entry.parent_path()), entry);
  }
  void Ref(const std::string& id, const std::string& ref, const std::string& commit) {
    folder_.Write("hf/models--" + id + "/refs/" + ref, commit);
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const CachedModel& model : ListModels(environment_)) {
      names.push_back(model.name.ToString() + (model.missing.empty() ? "" : " (incomplete)"));
    }
    return names;
  }
  Result<CachedModel> Find(const std::string& name, std::optional<HubKind> hub = {}) const {
    return FindModel(environment_, *ModelName::Parse(name), hub);
  }
  std::string Found(const std::string& name) const {
    const Result<CachedModel> model = Find(name);
    return model.ok() ? model->path.lexically_relative(folder_.path()).string()
                      : model.error().message();
  }
  Removal RemoveModel(const std::string& name, std::optional<HubKind> hub = {}) const {
    const Result<Removal> removal = PlanRemoval(environment_, *ModelName::Parse(name), hub);
    EXPECT_TRUE(removal.ok()) << (removal.ok() ? "" : removal.error().message());
    if (!removal.ok()) return {};
    const Status done = Remove(*removal);
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message());
    return *removal;
  }

  TemporaryFolder folder_;
  Environment environment_;
};

TEST_F(Library, NoCaches_HoldNothing) {
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_THAT(Found("org/name"), HasSubstr("`halfmoon pull org/name`"));
}

TEST_F(Library, VersionsOfAModel_HaveNames) {
  HuggingFace("org--name", kOld, "model.safetensors", "old");
  HuggingFace("org--name", kNew, "model.safetensors", "new");
  Ref("org--name", "main", kNew);
  Ref("org--name", "v1", kOld);
  folder_.Write("hf/datasets--org--set/snapshots/x/model.safetensors", "a data set");
  folder_.Write("hf/models--org--bare/snapshots/x/config.json", "{}");
  EXPECT_THAT(Names(), ElementsAre("org/name", "org/name@v1"));
  EXPECT_EQ(Found("org/name"), std::string("hf/models--org--name/snapshots/") + kNew);
  for (const std::string revision : {"v1", kOld}) {
    EXPECT_EQ(Found("org/name@" + revision), std::string("hf/models--org--name/snapshots/") + kOld);
  }
  EXPECT_THAT(Found("org/name@v2"), HasSubstr("not in the caches"));
  EXPECT_EQ(Find("org/name")->size_bytes, 3u);
}

TEST_F(Library, OnlyVersionWithoutARef_IsMeant) {
  HuggingFace("org--name", kOld, "model.safetensors", "old");
  EXPECT_EQ(Found("org/name"), std::string("hf/models--org--name/snapshots/") + kOld);
  HuggingFace("org--name", kNew, "model.safetensors", "new");
  EXPECT_THAT(Found("org/name"), HasSubstr("not in the caches"));  // Which of them nobody can say.
}

TEST_F(Library, Shards_HaveToBeThere) {
  const std::string index = R"({"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors"}})";
  const std::string root = "hf/models--org--name/snapshots/" + std::string(kNew);
  folder_.Write(root + "/model.safetensors.index.json", index);
  folder_.Write(root + "/s-1.safetensors", "11");
  Ref("org--name", "main", kNew);
  EXPECT_THAT(Names(), ElementsAre("org/name (incomplete)"));
  EXPECT_THAT(Found("org/name"), HasSubstr("1 of 2 shards, the first is s-2.safetensors"));
  EXPECT_EQ(Find("org/name").error().code(), ErrorCode::kUnavailable);
  // A link whose content is gone is as good as nothing.
  fs::create_symlink("../../blobs/gone", folder_.path() / root / "s-2.safetensors");
  EXPECT_THAT(Names(), ElementsAre("org/name (incomplete)"));
  fs::remove(folder_.path() / root / "s-2.safetensors");
  folder_.Write(root + "/s-2.safetensors", "222");
  EXPECT_EQ(Find("org/name")->size_bytes, 5u);
  folder_.Write(root + "/model.safetensors.index.json", "{broken");
  EXPECT_THAT(Found("org/name"), HasSubstr("a readable model.safetensors.index.json"));
}

TEST_F(Library, GgufFiles_AreModelsOfTheirOwn) {
  HuggingFace("org--name-GGUF", kNew, "q/n-Q4_0.gguf", "four");
  HuggingFace("org--name-GGUF", kNew, "n-Q8_0-00001-of-00002.gguf", "eight1");
  Ref("org--name-GGUF", "main", kNew);
  EXPECT_THAT(Names(),
              UnorderedElementsAre("org/name-GGUF:Q4_0", "org/name-GGUF:Q8_0 (incomplete)"));
  EXPECT_THAT(Found("org/name-GGUF"), ::testing::EndsWith("/q/n-Q4_0.gguf"));
  EXPECT_THAT(Found("org/name-GGUF:Q8_0"), HasSubstr("1 of 2 parts"));
  EXPECT_THAT(Found("org/name-GGUF:Q2_K"), HasSubstr("there is"));
}

TEST_F(Library, BegunDownload_IsShownAndCanBeRemoved) {
  folder_.Write("hf/models--org--name/blobs/abc.incomplete", "half");
  EXPECT_THAT(Names(), ElementsAre("org/name (incomplete)"));
  EXPECT_THAT(Found("org/name"), HasSubstr("a download was begun"));
  RemoveModel("org/name");
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_FALSE(fs::exists(folder_.path() / "hf/models--org--name"));
}

TEST_F(Library, ModelScopeLayouts_OfAllTimes) {
  folder_.Write("ms/models/org--new/snapshots/master/model.safetensors", "1");
  folder_.Write("ms/models/org--new/snapshots/v2/model.safetensors", "2");
  folder_.Write("ms/models/org/older-0___5B/model.safetensors", "3");
  folder_.Write("ms/hub/models/org/old/model.safetensors", "4");
  folder_.Write("ms/org/flat/model.safetensors", "5");
  folder_.Write("ms/hub/org/first/model.safetensors", "6");
  folder_.Write("ms/datasets/org/set/model.safetensors", "7");
  EXPECT_THAT(Names(), UnorderedElementsAre("org/new", "org/new@v2", "org/older-0.5B", "org/old",
                                            "org/flat", "org/first"));
  EXPECT_EQ(Found("org/new"), "ms/models/org--new/snapshots/master");
  EXPECT_EQ(Found("org/older-0.5B"), "ms/models/org/older-0___5B");
  RemoveModel("org/new@v2");
  EXPECT_EQ(Found("org/new"), "ms/models/org--new/snapshots/master");
  RemoveModel("org/older-0.5B");
  RemoveModel("org/new");
  EXPECT_THAT(Names(), UnorderedElementsAre("org/old", "org/flat", "org/first"));
}

TEST_F(Library, Licence_LiesBesideTheWeights) {
  HuggingFace("org--name", kNew, "model.safetensors", "w");
  HuggingFace("org--name", kNew, "LICENSE", "MIT License");
  EXPECT_EQ(LicenseOf(*Find("org/name")).name, "mit");
}

TEST_F(Library, Removal_KeepsContentThatAnotherVersionUses) {
  HuggingFace("org--name", kOld, "model.safetensors", "weights");
  HuggingFace("org--name", kOld, "config.json", "old");
  HuggingFace("org--name", kNew, "model.safetensors", "weights");
  HuggingFace("org--name", kNew, "config.json", "new");
  Ref("org--name", "main", kNew);
  Ref("org--name", "v1", kOld);
  const Removal removal = RemoveModel("org/name@v1");
  EXPECT_THAT(removal.models, ElementsAre("org/name@v1"));
  EXPECT_EQ(removal.freed_bytes, 3u);
  EXPECT_THAT(Names(), ElementsAre("org/name"));
  const fs::path root = folder_.path() / "hf/models--org--name";
  EXPECT_TRUE(fs::exists(root / "blobs/weights"));
  EXPECT_FALSE(fs::exists(root / "blobs/old"));
  EXPECT_FALSE(fs::exists(root / "refs/v1"));
  EXPECT_EQ(RemoveModel("org/name").freed_bytes, 7u + 3u + 40u);  // main is a file too
  EXPECT_FALSE(fs::exists(root));
}

TEST_F(Library, Removal_OfOneGgufFileKeepsTheRest) {
  HuggingFace("org--name", kNew, "n-Q4_0.gguf", "four");
  HuggingFace("org--name", kNew, "n-Q8_0.gguf", "eight");
  HuggingFace("org--name", kNew, "config.json", "c");
  Ref("org--name", "main", kNew);
  const Removal removal = RemoveModel("org/name:Q8_0");
  EXPECT_EQ(removal.freed_bytes, 5u);
  EXPECT_THAT(Names(), ElementsAre("org/name:Q4_0"));
  EXPECT_TRUE(fs::exists(folder_.path() / "hf/models--org--name/blobs/c"));
  RemoveModel("org/name:Q4_0");  // The last one takes the rest along.
  EXPECT_FALSE(fs::exists(folder_.path() / "hf/models--org--name"));
}

TEST_F(Library, Removal_DoesNotFollowLinks) {
  const fs::path outside = folder_.Write("outside/precious", "x");
  folder_.Write("hf/models--org--name/snapshots/" + std::string(kNew) + "/model.safetensors", "w");
  fs::create_directory_symlink(outside.parent_path(), folder_.path() / "hf/models--org--name/away");
  fs::create_symlink(outside, folder_.path() / "hf/models--org--name/snapshots" / kNew / "n.gguf");
  RemoveModel("org/name");
  EXPECT_TRUE(fs::exists(outside));
}

TEST_F(Library, Removal_SaysWhatTheSharedStoreKeeps) {
  folder_.Write("hf/blobs/ab/abc", "shared");
  HuggingFace("org--name", kNew, "config.json", "c");
  const fs::path blob = folder_.path() / "hf/models--org--name/blobs/etag";
  fs::create_symlink("../../blobs/ab/abc", blob);
  fs::create_symlink("../../blobs/etag", folder_.path() / "hf/models--org--name/snapshots" / kNew /
                                             "model.safetensors");
  EXPECT_EQ(Find("org/name")->size_bytes, 6u);
  const Removal removal = RemoveModel("org/name");
  EXPECT_EQ(removal.shared_bytes, 6u);
  EXPECT_EQ(removal.freed_bytes, 1u);
  EXPECT_TRUE(fs::exists(folder_.path() / "hf/blobs/ab/abc"));
}

TEST_F(Library, Removal_OfWhatIsNotHere) {
  const auto error = [&](const std::string& name) {
    const Result<Removal> removal = PlanRemoval(environment_, *ModelName::Parse(name), {});
    EXPECT_FALSE(removal.ok()) << name;
    return removal.ok() ? Error(ErrorCode::kInternal, "") : removal.error();
  };
  EXPECT_EQ(error("org/name").code(), ErrorCode::kNotFound);
  HuggingFace("org--name", kNew, "n-Q4_0.gguf", "four");
  EXPECT_EQ(error("org/name:Q8_0").code(), ErrorCode::kNotFound);
  EXPECT_EQ(error("org/name@v1").code(), ErrorCode::kNotFound);
  folder_.Write("ms/org/name/model.safetensors", "x");
  EXPECT_EQ(error("org/name").code(), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(PlanRemoval(environment_, *ModelName::Parse("org/name"), HubKind::kModelScope).ok());
}

TEST_F(Library, OllamaManifestThatCannotBeRead_KeepsEveryContent) {
  const std::string digest(64, 'a');
  folder_.Write("ollama/blobs/sha256-" + digest, "gguf");
  folder_.Write("ollama/manifests/registry.ollama.ai/library/tiny/latest",
                R"({"layers": [{"mediaType": "application/vnd.ollama.image.model", "size": 4,
                    "digest": "sha256:)" +
                    digest + "\"}]}");
  EXPECT_THAT(Names(), ElementsAre("tiny:latest"));
  EXPECT_EQ(Found("tiny"), "ollama/blobs/sha256-" + digest);
  folder_.Write("ollama/manifests/registry.ollama.ai/library/other/latest", "broken");
  const auto removal = PlanRemoval(environment_, *ModelName::Parse("tiny"), {});
  ASSERT_FALSE(removal.ok());
  EXPECT_THAT(removal.error().message(), HasSubstr("other/latest"));
  folder_.Write("ollama/blobs/sha256-" + digest, "cut");
  EXPECT_THAT(Names(), ElementsAre("tiny:latest (incomplete)"));
  EXPECT_THAT(Found("tiny"), HasSubstr("4 bytes of weights expected, 3 found"));
}

TEST_F(Library, Content_IsFoundByDigestElseByNameAndSize) {
  const std::string digest(64, 'b');
  const RemoteFile file{.path = "w.gguf", .size_bytes = 4, .sha256 = digest, .git_sha1 = ""};
  EXPECT_THAT(FindContent(environment_, "org/name", file), IsEmpty());
  const fs::path other = folder_.Write("hf/models--else--where/blobs/" + digest, "1234");
  const fs::path ollama = folder_.Write("ollama/blobs/sha256-" + digest, "1234");
  const fs::path scope = folder_.Write("ms/models/org--name/snapshots/master/w.gguf", "1234");
  const fs::path old_scope = folder_.Write("ms/hub/org/name/w.gguf", "1234");
  folder_.Write("ms/models/org--name/snapshots/v2/w.gguf", "of another size");
  EXPECT_THAT(FindContent(environment_, "org/name", file),
              UnorderedElementsAre(other, ollama, scope, old_scope));
}

}  // namespace
}  // namespace halfmoon::hub
