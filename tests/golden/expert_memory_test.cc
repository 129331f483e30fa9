// SPDX-License-Identifier: Apache-2.0
// Experts on disk: the same bits as with all in memory, whatever the budget; memory within it; what
// a disk can do wrong fails a step and nothing else.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <string>
#include <tuple>

#include "base/clock.h"
#include "base/file.h"
#include "base/temporary_folder_for_test.h"
#include "engine/engine.h"
#include "golden/golden_data.h"
#include "model/contiguous_kv.h"
#include "model/requantize.h"

namespace halfmoon::golden {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;

/// The number before " bytes (" in the error about a budget that is too small.
size_t SmallestBudget(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint,
                      LoadSpec spec) {
  spec.expert_memory_bytes = 1;
  try {
    Load(checkpoint, spec);
  } catch (const std::runtime_error& refused) {
    const std::string message = refused.what();
    const size_t end = message.find(" bytes (");
    const size_t begin = message.rfind(' ', end - 1) + 1;
    return std::stoull(message.substr(begin, end - begin));
  }
  ADD_FAILURE() << "a budget of one byte was accepted";
  return 0;
}

/// A quarter of the experts, with the two read buffers that the smallest budget names too.
size_t QuarterBudget(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint, LoadSpec spec,
                     size_t smallest) {
  spec.expert_memory_bytes = size_t{64} << 20;
  const LoadedModel loaded = Load(checkpoint, spec);
  const model::ExpertMemory& memory = *loaded.model->expert_memory();
  EXPECT_EQ(memory.num_slots, memory.num_experts) << "64 MiB hold these models whole";
  return std::max(smallest,
                  memory.num_experts / 4 * memory.slot_bytes + 2 * memory.read_buffer_bytes);
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Copies a variant's folder, so that a test may break it.
fs::path CopyOf(const std::string& variant, const TemporaryFolder& folder) {
  const fs::path to = folder.path() / "model";
  fs::copy(fs::path(HALFMOON_GOLDEN_DIR) / variant, to, fs::copy_options::recursive);
  return to;
}

std::shared_ptr<const checkpoint::Checkpoint> Open(const fs::path& path) {
  auto opened = checkpoint::Open(path);
  if (!opened.ok()) throw std::runtime_error(opened.error().message());
  return std::move(opened).value();
}

std::vector<int32_t> PromptOf(const Variant& variant, size_t tokens) {
  std::vector<int32_t> ids =
      variant.Read("p" + std::to_string(variant.num_prompts() - 1) + ".input_ids").ids;
  ids.resize(std::min(ids.size(), tokens));
  return ids;
}

/// name; requantised to this type first where it is not empty; kernels; activations.
using Case = std::tuple<std::string, std::string, kernels::Isa, model::Activation>;

class ExpertMemory : public testing::TestWithParam<Case> {
 protected:
  ExpertMemory() : variant(std::get<0>(GetParam())) {
    const std::string& type = std::get<1>(GetParam());
    checkpoint = OpenVariant(variant);
    if (!type.empty()) {
      ThreadPool pool(2);
      const auto written =
          model::Requantize(variant.folder(), folder.path() / "quantised", {.type = type}, &pool);
      if (!written.ok()) throw std::runtime_error(written.error().message());
      checkpoint = Open(folder.path() / "quantised");
    }
    const bool slow = std::get<2>(GetParam()) == kernels::Isa::kGeneric;
    prompt = PromptOf(variant, slow ? 40 : 100);
    spec = {.activation = std::get<3>(GetParam()), .isa = std::get<2>(GetParam())};
  }

  Variant variant;
  TemporaryFolder folder;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
  std::vector<int32_t> prompt;
  LoadSpec spec;
};

TEST_P(ExpertMemory, AnyBudget_SameBitsAsAllInMemory) {
  const std::vector<float> want = AllLogits(Load(checkpoint, spec).model.get(), prompt, 512);
  const size_t smallest = SmallestBudget(checkpoint, spec);
  const size_t quarter = QuarterBudget(checkpoint, spec, smallest);
  for (const size_t budget : {smallest, quarter, size_t{64} << 20}) {
    SCOPED_TRACE("budget " + std::to_string(budget));
    spec.expert_memory_bytes = budget;
    const LoadedModel loaded = Load(checkpoint, spec);
    const model::ExpertMemory& memory = *loaded.model->expert_memory();
    EXPECT_LE(
        memory.num_slots * memory.slot_bytes + memory.num_read_buffers * memory.read_buffer_bytes,
        budget);
    for (const size_t chunk : {1, 7, 512}) {
      EXPECT_TRUE(SameBits(want, AllLogits(loaded.model.get(), prompt, chunk)))
          << "chunk " << chunk;
    }
    const model::ExpertStats stats = loaded.model->expert_stats();
    EXPECT_EQ(stats.errors, 0u);
    EXPECT_GT(stats.bytes_read, 0u);
    if (memory.num_slots == memory.num_experts) {
      // Each expert comes in once.
      EXPECT_LE(stats.misses, memory.num_experts);
    } else {
      EXPECT_GT(stats.misses, memory.num_slots);
    }
  }
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const bool f32 = std::get<3>(info.param) == model::Activation::kF32;
  std::string name = std::get<0>(info.param) + std::get<1>(info.param) + "_" +
                     std::string(kernels::IsaName(std::get<2>(info.param))) +
                     (f32 ? "_f32" : "_int8");
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const kernels::Isa isa : TestedIsas()) {
    const auto add = [&](const std::string& name, const std::string& type = "") {
      for (const auto activation : {model::Activation::kF32, model::Activation::kInt8}) {
        cases.emplace_back(name, type, isa, activation);
      }
    };
    add("qwen3_moe/norm_topk");
    add("qwen3_moe/norm_topk", "int8");
    add("deepseek_v3/fp8");
    add("kimi_k2/int4");
    add("minimax_m2/bf16");
    if (isa == kernels::Isa::kGeneric) continue;
    add("deepseek_v3/bf16");
    add("minimax_m2/fp8");
    add("mixtral/base");
    add("qwen3_moe/sparse_step2_no_norm", "int4");
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Golden, ExpertMemory, testing::ValuesIn(Cases()), CaseName);

TEST(ExpertMemoryDraftLayer, OnDisk_SameBits) {
  const Variant variant("deepseek_v3/fp8");
  const auto checkpoint = OpenVariant(variant);
  LoadSpec spec{.isa = kernels::BestIsa(), .load_mtp = true};
  const std::vector<int32_t> ids = PromptOf(variant, 32);
  std::vector<std::vector<float>> outputs;
  for (const size_t budget : {size_t{0}, SmallestBudget(checkpoint, spec)}) {
    spec.expert_memory_bytes = budget;
    const LoadedModel loaded = Load(checkpoint, spec);
    model::Model* model = loaded.model.get();
    model::ContiguousKv kv(model->kv_layout(), 64);
    const model::SequenceChunk chunk{
        .ids = {ids.data(), 31}, .kv = kv.view(), .logits = model::LogitsMode::kAll};
    ASSERT_TRUE(model->Forward({&chunk, 1}).ok());
    const std::vector<float> hidden(model->final_hidden().begin(), model->final_hidden().end());
    const model::MtpChunk draft{.next_ids = {ids.data() + 1, 31},
                                .hidden = hidden,
                                .kv = kv.view(),
                                .logits = model::LogitsMode::kAll};
    ASSERT_TRUE(model->ForwardMtp({&draft, 1}).ok());
    outputs.emplace_back(model->logits().begin(), model->logits().end());
  }
  EXPECT_TRUE(SameBits(outputs[0], outputs[1]));
}

TEST(ExpertMemoryErrors, ModelWithoutExperts_IsRefused) {
  const Variant variant("qwen3/dense");
  try {
    Load(OpenVariant(variant), {.expert_memory_bytes = size_t{1} << 30});
    ADD_FAILURE();
  } catch (const std::runtime_error& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("no experts"));
  }
}

/// Passes reads on, and answers those that `fails` picks with EIO's text.
class FaultyReader final : public FileReader {
 public:
  struct Switch {
    bool on = false;
    uint64_t every = 1;  ///< of the reads while on, each so manieth fails
    uint64_t count = 0;
  };
  FaultyReader(std::unique_ptr<FileReader> real, Switch* faults)
      : real_(std::move(real)), faults_(faults) {}
  void Submit(const FileRead& read) override {
    if (faults_->on && faults_->count++ % faults_->every == 0) {
      failed_.push_back({.tag = read.tag, .status = Error(ErrorCode::kIo, "Input/output error")});
      return;
    }
    real_->Submit(read);
  }
  std::optional<FileReadDone> TryNext() override {
    if (failed_.empty()) return real_->TryNext();
    FileReadDone done = std::move(failed_.back());
    failed_.pop_back();
    return done;
  }
  FileReadDone Next() override {
    if (std::optional<FileReadDone> done = TryNext()) return std::move(*done);
    return real_->Next();
  }
  size_t pending() const override { return real_->pending() + failed_.size(); }
  std::string method() const override { return real_->method(); }

 private:
  std::unique_ptr<FileReader> real_;
  Switch* const faults_;
  std::vector<FileReadDone> failed_;
};

struct Output {
  std::vector<int32_t> ids;
  std::vector<uint32_t> logprob_bits;
  std::optional<Error> error;
  bool operator==(const Output& other) const {
    return ids == other.ids && logprob_bits == other.logprob_bits;
  }
};

class ExpertMemoryEngine : public testing::Test {
 protected:
  void Start(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint, LoadSpec spec) {
    engine.reset();
    loaded = Load(checkpoint, spec);
    auto started = engine::Engine::Start(
        loaded.model.get(), &clock,
        {.kv_bytes = size_t{64} << 20, .max_running = 8, .max_queued = 32, .step_tokens = 64});
    if (!started.ok()) throw std::runtime_error(started.error().message());
    engine = std::move(started).value();
  }
  std::unique_ptr<engine::RequestHandle> Submit(std::vector<int32_t> ids) {
    engine::Request request;
    request.prompt_ids = std::move(ids);
    request.max_tokens = 16;
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 11;
    request.num_logprobs = 0;
    auto handle = engine->Submit(std::move(request));
    if (!handle.ok()) throw std::runtime_error(handle.error().message());
    return std::move(handle).value();
  }
  static Output Read(engine::RequestHandle* handle) {
    Output output;
    while (std::optional<engine::Event> event = handle->Next()) {
      if (const auto* token = std::get_if<engine::TokenEvent>(&*event)) {
        output.ids.push_back(token->id);
        output.logprob_bits.push_back(std::bit_cast<uint32_t>(token->logprob));
      } else if (const auto* end = std::get_if<engine::FinishEvent>(&*event)) {
        output.error = end->error;
      }
    }
    return output;
  }
  Output Answer(const std::vector<int32_t>& ids) { return Read(Submit(ids).get()); }

  MonotonicClock clock;
  LoadedModel loaded;
  std::unique_ptr<engine::Engine> engine;
};

TEST_F(ExpertMemoryEngine, BatchOfMany_SameTokensAndLogprobs) {
  const Variant variant("qwen3_moe/norm_topk");
  const auto checkpoint = OpenVariant(variant);
  LoadSpec spec{.isa = kernels::BestIsa()};
  const std::vector<int32_t> prompt = PromptOf(variant, 120);
  Start(checkpoint, spec);
  const Output want = Answer(prompt);
  ASSERT_EQ(want.ids.size(), 16u);

  spec.expert_memory_bytes = QuarterBudget(checkpoint, spec, SmallestBudget(checkpoint, spec));
  Start(checkpoint, spec);
  std::vector<std::unique_ptr<engine::RequestHandle>> others;
  for (size_t i = 0; i < 12; ++i) {
    std::vector<int32_t> ids = prompt;
    std::rotate(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(5 * i + 3), ids.end());
    ids.resize(10 + 8 * i);
    others.push_back(Submit(ids));
  }
  EXPECT_EQ(Answer(prompt), want);
  for (const auto& other : others) EXPECT_EQ(Read(other.get()).ids.size(), 16u);
  const engine::EngineStats stats = engine->Stats();
  EXPECT_GT(stats.experts.hits, 0u);
  EXPECT_GT(stats.experts.misses, 0u);
  EXPECT_EQ(stats.experts.errors, 0u);
}

TEST_F(ExpertMemoryEngine, ReadErrors_FailTheirRequests_EngineGoesOnWithTheSameBits) {
  const Variant variant("deepseek_v3/fp8");
  const auto checkpoint = OpenVariant(variant);
  LoadSpec spec{.isa = kernels::BestIsa()};
  const std::vector<int32_t> prompt = PromptOf(variant, 60);
  Start(checkpoint, spec);
  const Output want = Answer(prompt);

  FaultyReader::Switch faults;
  spec.expert_memory_bytes = SmallestBudget(checkpoint, spec);
  spec.open_experts = [&](std::span<const fs::path> files) -> Result<std::unique_ptr<FileReader>> {
    HM_ASSIGN(std::unique_ptr<FileReader> real, OpenFileReader(files));
    return std::unique_ptr<FileReader>(std::make_unique<FaultyReader>(std::move(real), &faults));
  };
  for (const uint64_t every : {1, 5, 23}) {
    SCOPED_TRACE("every " + std::to_string(every));
    faults = {.on = true, .every = every};
    Start(checkpoint, spec);
    const Output failed = Answer(prompt);
    ASSERT_TRUE(failed.error.has_value());
    EXPECT_EQ(failed.error->code(), ErrorCode::kIo);
    EXPECT_THAT(failed.error->message(), HasSubstr("Input/output error"));
    EXPECT_THAT(failed.error->message(), HasSubstr(".mlp.experts."));
    EXPECT_GT(engine->Stats().experts.errors, 0u);
    // No request is running, so the engine thread reads no file now.
    faults.on = false;
    const Output again = Answer(prompt);
    EXPECT_FALSE(again.error.has_value());
    EXPECT_EQ(again, want);
  }
}

/// Offset right after the middle of the expert that lies last in its file.
size_t MiddleOfLastExpert(const checkpoint::Checkpoint& checkpoint) {
  size_t last = 0;
  for (const std::string& name : checkpoint.Names()) {
    if (name.find(".experts.") == std::string::npos) continue;
    const auto range = checkpoint.Locate(checkpoint.Find(name)->view.bytes);
    last = std::max(last, range->offset + range->size_bytes / 2);
  }
  return last;
}

TEST_F(ExpertMemoryEngine, FileCutShortWhileRunning_ErrorNamesFileAndTensor) {
  const Variant variant("minimax_m2/bf16");
  const TemporaryFolder folder;
  const fs::path model = CopyOf(variant.name(), folder);
  const auto checkpoint = Open(model);
  LoadSpec spec{.isa = kernels::BestIsa()};
  spec.expert_memory_bytes = SmallestBudget(checkpoint, spec);
  const std::vector<int32_t> prompt = PromptOf(variant, 100);
  Start(checkpoint, spec);
  EXPECT_FALSE(Answer(prompt).error.has_value());
  const auto embed = checkpoint->Locate(checkpoint->Find("model.embed_tokens.weight")->view.bytes);
  const size_t cut = MiddleOfLastExpert(*checkpoint);
  ASSERT_LT(embed->offset + embed->size_bytes, cut) << "the embedding is read through a mapping";
  const fs::path file = checkpoint->files()[0];
  fs::resize_file(file, cut);
  std::vector<int32_t> other(prompt.rbegin(), prompt.rend());
  const Output failed = Answer(other);
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_EQ(failed.error->code(), ErrorCode::kIo);
  EXPECT_THAT(failed.error->message(), HasSubstr(file.string()));
  EXPECT_THAT(failed.error->message(), HasSubstr(".experts."));
  EXPECT_THAT(failed.error->message(), HasSubstr("cut short"));
}

TEST_F(ExpertMemoryEngine, ScaleThatIsNoNumber_ErrorNamesTensorAndPlace) {
  const Variant variant("kimi_k2/int4");
  const TemporaryFolder folder;
  const fs::path model = CopyOf(variant.name(), folder);
  {
    const auto whole = Open(model);
    for (const std::string& name : whole->Names()) {
      if (name.find(".experts.") == std::string::npos) continue;
      const checkpoint::StoredTensor& stored = *whole->Find(name);
      const auto range = whole->Locate(stored.scales->view.bytes);
      std::fstream file(whole->files()[range->file],
                        std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(range->offset));
      const char nan[2] = {'\xC0', '\x7F'};
      file.write(nan, 2);
    }
  }
  const auto checkpoint = Open(model);
  LoadSpec spec{.isa = kernels::BestIsa()};
  spec.expert_memory_bytes = SmallestBudget(checkpoint, spec);
  Start(checkpoint, spec);
  const Output failed = Answer(PromptOf(variant, 10));
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_EQ(failed.error->code(), ErrorCode::kCorrupt);
  EXPECT_THAT(failed.error->message(), HasSubstr("weight_scale': scale [0, 0]"));
}

/// Pages of the file that are in the page cache, of [offset, offset + size).
size_t CachedPages(const fs::path& path, size_t offset, size_t size) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto mapped = MappedFile::Open(path);
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + size) / page * page;
  if (!mapped.ok() || begin >= end) return 0;
  std::vector<unsigned char> in_core((end - begin) / page);
  auto* address = const_cast<std::byte*>(mapped->bytes().data()) + begin;
  if (::mincore(address, end - begin, in_core.data()) != 0) return 0;
  return static_cast<size_t>(
      std::ranges::count_if(in_core, [](unsigned char c) { return (c & 1) != 0; }));
}

TEST(ExpertMemoryPages, ExpertsOnDisk_LeaveThePageCacheAlone) {
  const Variant variant("mixtral/base");
  const TemporaryFolder folder;
  const fs::path model = CopyOf(variant.name(), folder);
  const auto checkpoint = Open(model);
  const auto cached = [&] {
    size_t pages = 0;
    for (const std::string& name : checkpoint->Names()) {
      if (name.find(".experts.") == std::string::npos) continue;
      const auto range = checkpoint->Locate(checkpoint->Find(name)->view.bytes);
      pages += CachedPages(checkpoint->files()[range->file], range->offset, range->size_bytes);
    }
    return pages;
  };
  for (const fs::path& file : checkpoint->files()) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
  const size_t before = cached();
  if (before > 0) GTEST_SKIP() << "this file system keeps its pages in memory";
  LoadSpec spec{.isa = kernels::BestIsa()};
  spec.expert_memory_bytes = SmallestBudget(checkpoint, spec);
  const LoadedModel loaded = Load(checkpoint, spec);
  AllLogits(loaded.model.get(), PromptOf(variant, 50), 7);
  EXPECT_GT(loaded.model->expert_stats().bytes_read, 0u);
  // Blocks at the borders of experts are shared with other tensors.
  EXPECT_EQ(cached(), 0u);
}

}  // namespace
}  // namespace halfmoon::golden
