// SPDX-License-Identifier: Apache-2.0
// Decoding with experts on disk: tokens/s against the budget, and against plain mmap, one JSON line
// a case:
//   bench_expert_memory -m moe.gguf [--shares 100,50,25,12] [--how direct,mmap] [--commit NAME]
//
// A share is the part of the experts that the budget holds. `direct` is the product, and
// `unforetold` the same without reading the next layer's experts ahead. `mmap` is the
// same cache over a mapped file: pages come in by faults of as many threads as compute, when the
// expert is needed and not before, and the pages of a file never take memory beyond the budget.
// That is a page cache limited to the budget with a better choice of what to drop than the
// kernel's, so it flatters plain mmap; no limit on memory has to be set for it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/topology.h"
#include "model/contiguous_kv.h"
#include "model/model.h"

namespace halfmoon {
namespace {

struct Options {
  std::string model;
  std::vector<int> shares = {100, 50, 25, 12};
  std::vector<std::string> how = {"direct", "mmap"};
  int batch = 1;
  int tokens = 32;
  int repeats = 3;
  int threads = 0;
  std::string commit = "unknown";
};

/// Reads by page faults, when asked for and not before.
class MmapReader final : public FileReader {
 public:
  static Result<std::unique_ptr<FileReader>> Open(std::span<const std::filesystem::path> files,
                                                  int threads) {
    auto reader = std::make_unique<MmapReader>(threads);
    for (const std::filesystem::path& path : files) {
      HM_ASSIGN(MappedFile mapped, MappedFile::Open(path));
      reader->files_.push_back(std::move(mapped));
      reader->fds_.push_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    }
    reader->Drop();
    return std::unique_ptr<FileReader>(std::move(reader));
  }
  explicit MmapReader(int threads) : threads_(threads) {}
  MmapReader(const MmapReader&) = delete;
  MmapReader& operator=(const MmapReader&) = delete;
  ~MmapReader() override {
    for (const int fd : fds_) ::close(fd);
  }

  void Submit(const FileRead& read) override { queued_.push_back(read); }
  std::optional<FileReadDone> TryNext() override { return std::nullopt; }
  FileReadDone Next() override {
    const FileRead read = queued_.front();
    queued_.pop_front();
    const std::byte* from = files_[read.file].bytes().data() + read.offset;
    std::byte* into = read.buffer + Lead(read.offset);
    const size_t part = read.size_bytes / static_cast<size_t>(threads_) + 1;
    std::vector<std::thread> threads;
    for (size_t begin = 0; begin < read.size_bytes; begin += part) {
      threads.emplace_back([=] {
        std::memcpy(into + begin, from + begin, std::min(part, read.size_bytes - begin));
      });
    }
    for (std::thread& thread : threads) thread.join();
    Forget(read.file, read.offset, read.size_bytes);
    return {.tag = read.tag, .status = {}};
  }
  size_t pending() const override { return queued_.size(); }
  std::string method() const override { return "page faults"; }

 private:
  /// What is in the cache of experts needs no second copy in the page cache.
  void Forget(size_t file, uint64_t offset, size_t size) {
    const uint64_t begin = offset / kAlignment * kAlignment;
    auto* address = const_cast<std::byte*>(files_[file].bytes().data()) + begin;
    const size_t length = size + (offset - begin);
    (void)::madvise(address, length, MADV_DONTNEED);
    (void)::posix_fadvise(fds_[file], static_cast<off_t>(begin), static_cast<off_t>(length),
                          POSIX_FADV_DONTNEED);
  }
  void Drop() {
    for (size_t i = 0; i < files_.size(); ++i) Forget(i, 0, files_[i].bytes().size());
  }

  const int threads_;
  std::vector<MappedFile> files_;
  std::vector<int> fds_;
  std::deque<FileRead> queued_;
};

/// One pass: `tokens` steps of `batch` sequences from empty caches, with tokens that `seed` picks.
Status Decode(model::Model* model, const Options& options, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<model::ContiguousKv> kv;
  for (int i = 0; i < options.batch; ++i) kv.emplace_back(model->kv_layout(), options.tokens);
  std::vector<int32_t> ids(static_cast<size_t>(options.batch));
  std::vector<model::SequenceChunk> chunks(ids.size());
  for (int t = 0; t < options.tokens; ++t) {
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(random() % static_cast<uint64_t>(model->vocab_size()));
      chunks[i] = {.ids = {&ids[i], 1}, .start = t, .kv = kv[i].view()};
    }
    HM_TRY(model->Forward(chunks));
  }
  return {};
}

struct Case {
  std::string how;
  int share = 0;
  size_t budget_bytes = 0;
};

Status Measure(const std::shared_ptr<const checkpoint::Checkpoint>& checkpoint, ThreadPool* pool,
               const Options& options, const Case& one, model::ExpertMemory* found) {
  model::LoadOptions load{.isa = kernels::BestIsa(),
                          .max_sequences = std::max(64, options.batch),
                          .max_context = 1024,
                          .expert_memory_bytes = one.budget_bytes,
                          .foretell_experts = one.how == "direct"};
  if (one.how == "mmap") {
    load.open_experts = [&](std::span<const std::filesystem::path> files) {
      return MmapReader::Open(files, pool->num_threads());
    };
  }
  HM_ASSIGN(const std::unique_ptr<model::Model> model, model::Model::Load(checkpoint, pool, load));
  *found = *model->expert_memory();
  if (one.share == 0) return {};
  // Fills the cache; not counted. Tokens differ from pass to pass, so experts do.
  for (uint32_t seed = 1; seed <= 2; ++seed) HM_TRY(Decode(model.get(), options, seed));
  const MonotonicClock clock;
  const model::ExpertStats before = model->expert_stats();
  std::vector<double> rates;
  double seconds = 0.0;
  for (int i = 0; i < options.repeats; ++i) {
    const TimeUs begin = clock.NowUs();
    HM_TRY(Decode(model.get(), options, static_cast<uint32_t>(100 + i)));
    const double took = static_cast<double>(clock.NowUs() - begin) * 1e-6;
    seconds += took;
    rates.push_back(options.batch * options.tokens / took);
  }
  std::sort(rates.begin(), rates.end());
  const model::ExpertStats after = model->expert_stats();
  const auto rise = [&](uint64_t model::ExpertStats::* counter) {
    return static_cast<double>(after.*counter - before.*counter);
  };
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  const double hits = rise(&model::ExpertStats::hits);
  const double median = rates[rates.size() / 2];
  const json::object line{{"bench", "expert_memory"},
                          {"commit", options.commit},
                          {"machine", CpuName()},
                          {"threads", pool->num_threads()},
                          {"model", std::filesystem::path(options.model).filename().string()},
                          {"how", one.how},
                          {"method", found->method},
                          {"batch", options.batch},
                          {"share_percent", one.share},
                          {"budget_bytes", found->budget_bytes},
                          {"slots", found->num_slots},
                          {"experts", found->num_experts},
                          {"tokens_per_s", median},
                          {"spread", (rates.back() - rates.front()) / median},
                          {"hit_rate", share(hits, hits + rise(&model::ExpertStats::misses))},
                          {"foretold_came_true", share(rise(&model::ExpertStats::predicted_needed),
                                                       rise(&model::ExpertStats::predicted))},
                          {"prefetched_used", share(rise(&model::ExpertStats::prefetched_used),
                                                    rise(&model::ExpertStats::prefetched))},
                          {"read_bytes_per_s", rise(&model::ExpertStats::bytes_read) / seconds},
                          {"wait_share", rise(&model::ExpertStats::wait_us) * 1e-6 / seconds},
                          {"pack_share", rise(&model::ExpertStats::pack_us) * 1e-6 / seconds}};
  std::printf("%s\n", json::Serialize(line).c_str());
  std::fflush(stdout);
  return {};
}

Status Run(const Options& options) {
  HM_ASSIGN(const std::shared_ptr<const checkpoint::Checkpoint> checkpoint,
            checkpoint::Open(options.model));
  ThreadPool pool(options.threads > 0 ? options.threads : DefaultThreadCount());
  // What all experts take is known once a model is loaded, with whatever budget.
  model::ExpertMemory sizes;
  HM_TRY(Measure(checkpoint, &pool, options,
                 {.how = "direct", .share = 0, .budget_bytes = checkpoint->size_bytes() / 8},
                 &sizes));
  for (const std::string& how : options.how) {
    for (const int share : options.shares) {
      const size_t experts = sizes.num_experts * static_cast<size_t>(share) / 100;
      // Read buffers are on top at 100 %, so that all experts fit.
      const size_t extra = share == 100 ? 64 * sizes.read_buffer_bytes : 0;
      model::ExpertMemory found;
      HM_TRY(
          Measure(checkpoint, &pool, options,
                  {.how = how, .share = share, .budget_bytes = experts * sizes.slot_bytes + extra},
                  &found));
    }
  }
  return {};
}

}  // namespace
}  // namespace halfmoon

int main(int argc, char** argv) {
  halfmoon::Options options;
  CLI::App app("Decoding with experts on disk against the budget and against plain mmap");
  app.add_option("-m,--model", options.model, "A model with experts")->required();
  app.add_option("--shares", options.shares, "Percent of the experts that the budget holds")
      ->delimiter(',')
      ->check(CLI::Range(1, 100));
  app.add_option("--how", options.how, "direct, unforetold, mmap")
      ->delimiter(',')
      ->check(CLI::IsMember({"direct", "unforetold", "mmap"}));
  app.add_option("--batch", options.batch, "Sequences")->check(CLI::Range(1, 1024));
  app.add_option("-n,--tokens", options.tokens, "Steps of a pass")->check(CLI::Range(1, 1000));
  app.add_option("-r,--repeats", options.repeats, "Counted passes")->check(CLI::Range(1, 1000));
  app.add_option("-t,--threads", options.threads, "Threads")->check(CLI::Range(0, 1024));
  app.add_option("--commit", options.commit, "Named in the output");
  CLI11_PARSE(app, argc, argv);
  const halfmoon::Status status = halfmoon::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_expert_memory: %s\n", status.error().message().c_str());
  return 1;
}
