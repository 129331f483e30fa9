// SPDX-License-Identifier: Apache-2.0
// Weights out of the cache: the same bits as packed ones, for every family; and whatever is wrong
// with the folder or a file in it costs time and nothing else.
#include "model/weight_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "base/temporary_folder_for_test.h"
#include "golden/golden_checks.h"
#include "golden/golden_data.h"
#include "model/contiguous_kv.h"

namespace halfmoon::golden {
namespace {

namespace fs = std::filesystem;

using State = model::WeightFile::State;
using testing::HasSubstr;

constexpr const char* kSmall = "qwen3/dense";

std::shared_ptr<const checkpoint::Checkpoint> Open(const fs::path& path) {
  auto opened = checkpoint::Open(path);
  if (!opened.ok()) throw std::runtime_error(opened.error().message());
  return std::move(opened).value();
}

std::vector<int32_t> PromptOf(const Variant& variant) {
  std::vector<int32_t> ids =
      variant.Read("p" + std::to_string(variant.num_prompts() - 1) + ".input_ids").ids;
  ids.resize(std::min<size_t>(ids.size(), 40));
  return ids;
}

/// One start with a cache in that folder.
struct Start {
  State state;
  std::vector<float> logits;
};

Start StartWith(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint, LoadSpec spec,
                model::WeightCacheOptions options, const std::vector<int32_t>& ids) {
  model::WeightCache cache(std::move(options));
  spec.weight_cache = &cache;
  const LoadedModel loaded = Load(checkpoint, spec);
  Start start{.state = loaded.model->weight_file().state};
  start.logits = AllLogits(loaded.model.get(), ids, 16);
  return start;
}

/// Without a cache, first start, second start: equal bits, and the states that they should have.
void ExpectSameBits(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint,
                    const LoadSpec& spec, const fs::path& folder, const std::vector<int32_t>& ids) {
  const std::vector<float> want = AllLogits(Load(checkpoint, spec).model.get(), ids, 16);
  for (const State state : {State::kSaving, State::kMapped, State::kMapped}) {
    const Start start = StartWith(checkpoint, spec, {.folder = folder}, ids);
    EXPECT_EQ(start.state, state);
    EXPECT_TRUE(SameBits(want, start.logits));
  }
}

class WeightCacheFamilies : public testing::TestWithParam<std::string> {};

TEST_P(WeightCacheFamilies, FirstAndLaterStarts_SameBitsAsWithout) {
  const Variant variant(GetParam());
  const auto checkpoint = OpenVariant(variant);
  const TemporaryFolder folder;
  LoadSpec spec{.activation = model::Activation::kInt8, .isa = kernels::BestIsa()};
  ExpectSameBits(checkpoint, spec, folder.path(), PromptOf(variant));
  if (checkpoint->config().contains("kv_lora_rank")) {
    spec.mla_prefill = model::MlaPrefill::kExpanded;
    ExpectSameBits(checkpoint, spec, folder.path(), PromptOf(variant));
    // What the wider file holds serves this too, and has replaced the narrower one.
    EXPECT_EQ(folder.NumFiles(), 1u);
    spec.mla_prefill = model::MlaPrefill::kAbsorbed;
    EXPECT_EQ(StartWith(checkpoint, spec, {.folder = folder.path()}, PromptOf(variant)).state,
              State::kMapped);
  }
}

std::string FamilyName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, WeightCacheFamilies, testing::ValuesIn(Variants()), FamilyName);

TEST(WeightCache, CheckpointWithoutFiles_IsNotCached) {
  const Variant variant("qwen3_moe/norm_topk");
  const auto checkpoint = Quantise(OpenVariant(variant), tensor::DType::kQ4_0);
  const TemporaryFolder folder;
  const Start start =
      StartWith(checkpoint, {.activation = model::Activation::kInt8, .isa = kernels::BestIsa()},
                {.folder = folder.path()}, PromptOf(variant));
  EXPECT_EQ(start.state, State::kNone);
  EXPECT_EQ(folder.NumFiles(), 0u);
}

TEST(WeightCache, ExpertsOnDisk_UseTheRestOfTheFile) {
  const Variant variant("qwen3_moe/norm_topk");
  const auto checkpoint = OpenVariant(variant);
  const std::vector<int32_t> ids = PromptOf(variant);
  const TemporaryFolder folder;
  LoadSpec spec{.activation = model::Activation::kInt8, .isa = kernels::BestIsa()};
  spec.expert_memory_bytes = size_t{64} << 20;
  ExpectSameBits(checkpoint, spec, folder.path(), ids);
  const auto name_of_only_file = [&] {
    EXPECT_EQ(folder.NumFiles(), 1u);
    return fs::directory_iterator(folder.path())->path().filename().string();
  };
  EXPECT_THAT(name_of_only_file(), testing::Not(HasSubstr(".experts")));
  // With all experts in memory the file grows, and then serves both.
  spec.expert_memory_bytes = 0;
  ExpectSameBits(checkpoint, spec, folder.path(), ids);
  EXPECT_THAT(name_of_only_file(), HasSubstr(".experts"));
  spec.expert_memory_bytes = size_t{64} << 20;
  EXPECT_EQ(StartWith(checkpoint, spec, {.folder = folder.path()}, ids).state, State::kMapped);
}

TEST(WeightCache, DraftLayer_SameBits) {
  const Variant variant("deepseek_v3/fp8");
  const auto checkpoint = OpenVariant(variant);
  const std::vector<int32_t> ids = PromptOf(variant);
  const TemporaryFolder folder;
  std::vector<std::vector<float>> outputs;
  for (const bool with : {false, true, true}) {
    model::WeightCache cache({.folder = folder.path()});
    LoadSpec spec{.isa = kernels::BestIsa(), .load_mtp = true};
    if (with) spec.weight_cache = &cache;
    const LoadedModel loaded = Load(checkpoint, spec);
    ASSERT_EQ(loaded.model->num_mtp_layers(), 1);
    model::ContiguousKv kv(loaded.model->kv_layout(), 64);
    const std::span<const int32_t> first(ids.data(), 31);
    const model::SequenceChunk chunk{
        .ids = first, .kv = kv.view(), .logits = model::LogitsMode::kAll};
    ASSERT_TRUE(loaded.model->Forward({&chunk, 1}).ok());
    const std::vector<float> hidden(loaded.model->final_hidden().begin(),
                                    loaded.model->final_hidden().end());
    const model::MtpChunk draft{.next_ids = {ids.data() + 1, 31},
                                .hidden = hidden,
                                .kv = kv.view(),
                                .logits = model::LogitsMode::kAll};
    ASSERT_TRUE(loaded.model->ForwardMtp({&draft, 1}).ok());
    outputs.emplace_back(loaded.model->logits().begin(), loaded.model->logits().end());
  }
  EXPECT_TRUE(SameBits(outputs[0], outputs[1]));
  EXPECT_TRUE(SameBits(outputs[0], outputs[2]));
}

/// A copy of a small checkpoint, so that a test may change it, and a folder for its cache.
class WeightCacheFolder : public testing::Test {
 protected:
  WeightCacheFolder()
      : variant(kSmall), model(folder.path() / "model"), cache(folder.path() / "c") {
    fs::copy(variant.folder(), model, fs::copy_options::recursive);
    ids = PromptOf(variant);
    want = AllLogits(Load(Open(model), spec).model.get(), ids, 16);
  }

  State StateOfStart(model::WeightCacheOptions options) {
    const Start start = StartWith(Open(model), spec, std::move(options), ids);
    EXPECT_TRUE(SameBits(want, start.logits));
    return start.state;
  }
  State StateOfStart() { return StateOfStart({.folder = cache}); }
  std::vector<fs::path> Files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(cache)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
  }
  /// Changes one byte of the only file.
  void Damage(int64_t offset) {
    std::fstream file(Files().at(0), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(offset, offset < 0 ? std::ios::end : std::ios::beg);
    const auto at = file.tellg();
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }

  const Variant variant;
  const TemporaryFolder folder;
  const fs::path model;
  const fs::path cache;
  const LoadSpec spec{.activation = model::Activation::kInt8, .isa = kernels::BestIsa()};
  std::vector<int32_t> ids;
  std::vector<float> want;
};

TEST_F(WeightCacheFolder, DamagedFile_IsPackedAgain) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  // Header, data, table.
  for (const int64_t offset : {20, 5000, -9}) {
    Damage(offset);
    EXPECT_EQ(StateOfStart(), State::kSaving) << "byte " << offset;
    EXPECT_EQ(StateOfStart(), State::kMapped);
  }
  EXPECT_EQ(Files().size(), 1u);
}

TEST_F(WeightCacheFolder, TruncatedOrForeignFile_IsPackedAgain) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  const fs::path file = Files().at(0);
  fs::resize_file(file, fs::file_size(file) - 100);
  EXPECT_EQ(StateOfStart(), State::kSaving);
  std::ofstream(file) << "something else";
  EXPECT_EQ(StateOfStart(), State::kSaving);
  fs::remove(file);
  fs::create_directory(file);
  // It cannot be replaced by a rename, and does no harm.
  EXPECT_EQ(StateOfStart(), State::kSaving);
  fs::remove(file);
  EXPECT_EQ(StateOfStart(), State::kSaving);
  EXPECT_EQ(StateOfStart(), State::kMapped);
}

TEST_F(WeightCacheFolder, FileOfAnotherModelUnderThisName_IsNotUsed) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  const fs::path file = Files().at(0);
  const TemporaryFolder other;
  StartWith(OpenVariant(Variant("mixtral/base")), spec, {.folder = other.path()}, {1, 2, 3});
  fs::copy_file(fs::directory_iterator(other.path())->path(), file,
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(StateOfStart(), State::kSaving);
}

TEST_F(WeightCacheFolder, ChangedCheckpoint_IsAnotherFileAndTheOldOneGoes) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  const std::vector<fs::path> before = Files();
  const fs::path weights = model / "model.safetensors";
  // The same bytes, but written again: by its time alone it may be another one.
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::seconds(1));
  EXPECT_EQ(StateOfStart(), State::kSaving);
  const std::vector<fs::path> after = Files();
  ASSERT_EQ(after.size(), 1u);
  EXPECT_NE(after, before);
  // Another file with the same bytes, size and time.
  fs::copy_file(weights, model / "copy");
  fs::last_write_time(model / "copy", fs::last_write_time(weights));
  fs::rename(model / "copy", weights);
  EXPECT_EQ(StateOfStart(), State::kSaving);
  // A configuration that says something else.
  std::ifstream in(model / "config.json");
  std::string config((std::istreambuf_iterator<char>(in)), {});
  in.close();
  config.insert(config.find('{') + 1, "\"note\": 1, ");
  std::ofstream(model / "config.json") << config;
  EXPECT_EQ(StateOfStart(), State::kSaving);
  EXPECT_EQ(StateOfStart(), State::kMapped);
}

TEST_F(WeightCacheFolder, FolderThatCannotBeWritten_PacksInMemory) {
  std::ofstream(folder.path() / "file") << "no folder";
  EXPECT_EQ(StateOfStart({.folder = folder.path() / "file" / "c"}), State::kNone);
  EXPECT_EQ(StateOfStart({.folder = "/proc/nowhere"}), State::kNone);
}

TEST_F(WeightCacheFolder, ReadOnlyFolder_IsReadAndNotWritten) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  ASSERT_EQ(::chmod(cache.c_str(), 0555), 0);
  EXPECT_EQ(StateOfStart(), State::kMapped);
  ASSERT_EQ(::chmod(cache.c_str(), 0755), 0);
}

TEST_F(WeightCacheFolder, TooSmallABudget_PacksInMemoryAndLeavesNothing) {
  // Known from the start, and found out while packing.
  EXPECT_EQ(StateOfStart({.folder = cache, .budget_bytes = 1000}), State::kNone);
  EXPECT_TRUE(Files().empty());
  const size_t stored = Open(model)->size_bytes();
  EXPECT_EQ(StateOfStart({.folder = cache, .budget_bytes = stored}), State::kNone);
  EXPECT_TRUE(Files().empty());
}

TEST_F(WeightCacheFolder, GivenUp_LeavesNothing) {
  EXPECT_EQ(StateOfStart({.folder = cache, .give_up = [] { return true; }}), State::kSaving);
  EXPECT_TRUE(Files().empty());
}

TEST_F(WeightCacheFolder, AnotherWriterAtWork_PacksInMemory) {
  const auto checkpoint = Open(model);
  model::WeightCache mine({.folder = cache});
  LoadSpec with = spec;
  with.weight_cache = &mine;
  {
    // Written, but not yet under its name.
    EXPECT_EQ(StateOfStart(), State::kSaving);
    const fs::path file = Files().at(0);
    auto writer = FileArena::Create(file, {.capacity_bytes = 4096, .max_bytes = 4096});
    ASSERT_TRUE(writer.ok());
    fs::remove(file);
    EXPECT_EQ(Load(checkpoint, with).model->weight_file().state, State::kNone);
  }
  EXPECT_EQ(Load(checkpoint, with).model->weight_file().state, State::kSaving);
}

TEST_F(WeightCacheFolder, WhatAKilledProcessLeft_GoesWithTheNextFile) {
  fs::create_directories(cache);
  std::ofstream(cache / (std::string(32, 'a') + ".weights.tmp")) << "half";
  std::ofstream(cache / "notes.txt") << "not ours";
  EXPECT_EQ(StateOfStart(), State::kSaving);
  ASSERT_EQ(Files().size(), 2u);
  EXPECT_TRUE(fs::exists(cache / "notes.txt"));
}

TEST_F(WeightCacheFolder, OverBudget_WhatWasUsedLongestAgoGoes) {
  const auto name = [](char digit) { return std::string(32, digit) + ".weights"; };
  EXPECT_EQ(StateOfStart(), State::kSaving);
  const fs::path own = Files().at(0);
  const size_t size = fs::file_size(own);
  const auto now = fs::last_write_time(own);
  for (const char digit : {'1', '2', '3'}) {
    std::ofstream(cache / name(digit)) << std::string(size, 'x');
    fs::last_write_time(cache / name(digit), now - std::chrono::hours('9' - digit));
  }
  // 1 is the oldest, but somebody has it open.
  const FileDescriptor used(::open((cache / name('1')).c_str(), O_RDONLY));
  ASSERT_TRUE(TryLockFile(used.get(), /*exclusive=*/false));
  fs::remove(own);
  EXPECT_EQ(StateOfStart({.folder = cache, .budget_bytes = 3 * size}), State::kSaving);
  EXPECT_THAT(Files(), testing::UnorderedElementsAre(own, cache / name('1'), cache / name('3')));
}

TEST_F(WeightCacheFolder, List_TellsSourcesUseAndDamage) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  ThreadPool pool(2);
  const model::WeightCache listed({.folder = cache});
  auto entries = listed.List(/*check=*/true, &pool);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_TRUE(entries[0].status.ok());
  EXPECT_EQ(entries[0].size_bytes, fs::file_size(Files().at(0)));
  EXPECT_THAT(entries[0].sources, testing::ElementsAre((model / "model.safetensors").string()));
  Damage(5000);
  EXPECT_TRUE(listed.List(/*check=*/false, &pool)[0].status.ok());
  entries = listed.List(/*check=*/true, &pool);
  ASSERT_FALSE(entries[0].status.ok());
  EXPECT_THAT(entries[0].status.error().message(), HasSubstr("data block 0"));
}

TEST_F(WeightCacheFolder, RemoveOrphans_RemovesThoseWhoseCheckpointIsGone) {
  EXPECT_EQ(StateOfStart(), State::kSaving);
  model::WeightCache kept({.folder = cache});
  EXPECT_EQ(kept.RemoveOrphans(), 0u);
  EXPECT_EQ(Files().size(), 1u);
  const size_t size = fs::file_size(Files().at(0));
  fs::remove_all(model);
  EXPECT_EQ(kept.RemoveOrphans(), size);
  EXPECT_TRUE(Files().empty());
}

}  // namespace
}  // namespace halfmoon::golden
