// SPDX-License-Identifier: Apache-2.0
// Prompts read back from disk against prompts computed, one JSON line a case:
//   bench_kv_store -m model.gguf --dir FOLDER [--lengths 256,1024,4096] [--repeats 3] [--commit
//   NAME]
//
// A length is measured in turns: an engine without a store computes the prompt, then an engine over
// a store that was just opened (as after a restart) reads it back. Both times are those until the
// first token. `device` is what plain direct reads of the same files reach. The last line compares
// decoding with and without a store that takes every block.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/file_reader.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "kernels/isa.h"
#include "model/model.h"
#include "store/tiered_store.h"

namespace halfmoon {
namespace {

struct Options {
  std::string model;
  std::string folder;
  std::vector<int> lengths = {256, 1024, 4096};
  int repeats = 3;
  int decode_tokens = 256;
  int sequences = 4;
  int threads = 0;
  std::string commit = "unknown";
};

constexpr TimeUs kLongUs = 120'000'000;
constexpr uint64_t kDiskBytes = uint64_t{8} << 30;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(Options options, std::unique_ptr<ThreadPool> pool, std::unique_ptr<model::Model> model)
      : options_(std::move(options)), pool_(std::move(pool)), model_(std::move(model)) {}

  Status Run() {
    for (const int length : options_.lengths) HM_TRY(MeasureLength(length));
    return MeasureDecode();
  }

 private:
  struct Answer {
    double first_token_us = 0.0;
    double last_token_us = 0.0;  // after the first
    int32_t cached_tokens = 0;
  };

  std::vector<int32_t> Prompt(int length, int salt) const {
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i) {
      ids.push_back(static_cast<int32_t>((int64_t{7919} * i + 31 * salt + 11) %
                                         std::min<int64_t>(model_->vocab_size(), 20'000)));
    }
    return ids;
  }
  Result<std::unique_ptr<store::TieredStore>> OpenStore() {
    HM_ASSIGN(auto folder, store::OpenSegmentFolder({.path = options_.folder}));
    const kernels::KvLayout& layout = model_->kv_layout();
    return store::TieredStore::Open(
        {.scope = {.model_fingerprint = model_->fingerprint(),
                   .kv_format_version = kernels::kKvFormatVersion,
                   .block_size = static_cast<uint32_t>(layout.block_size),
                   .page_bytes = layout.page_bytes()},
         .folder = std::move(folder),
         .disk_bytes = kDiskBytes},
        &clock_);
  }
  Result<std::unique_ptr<engine::Engine>> StartEngine(store::BlockStore* store) {
    const kernels::KvLayout& layout = model_->kv_layout();
    const auto tokens = static_cast<size_t>(model_->max_context());
    return engine::Engine::Start(
        model_.get(), &clock_,
        {.kv_bytes =
             (tokens / static_cast<size_t>(layout.block_size) + 2) * layout.page_bytes() * 2,
         .store = store});
  }
  Result<Answer> Ask(engine::Engine* engine, std::vector<int32_t> prompt, int max_tokens) {
    engine::Request request;
    request.prompt_ids = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0.0f;
    const TimeUs begin = clock_.NowUs();
    HM_ASSIGN(const auto handle, engine->Submit(std::move(request)));
    return Read(handle.get(), begin);
  }
  Result<Answer> Read(engine::RequestHandle* handle, TimeUs begin) {
    Answer answer;
    TimeUs first = 0;
    while (const std::optional<engine::Event> event = handle->Next()) {
      if (const auto* prompt = std::get_if<engine::PromptEvent>(&*event)) {
        answer.cached_tokens = prompt->cached_tokens;
      } else if (std::holds_alternative<engine::TokenEvent>(*event)) {
        if (first == 0) first = clock_.NowUs();
        answer.last_token_us = static_cast<double>(clock_.NowUs() - first);
      } else if (const auto* finish = std::get_if<engine::FinishEvent>(&*event)) {
        if (finish->error.has_value()) return *finish->error;
      }
    }
    answer.first_token_us = static_cast<double>(first - begin);
    return answer;
  }
  static void AwaitOffers(const engine::Engine& engine, store::TieredStore* store) {
    while (engine.Stats().waiting_offers > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    (void)store->Flush(kLongUs);
  }

  // Bytes a second of direct reads of all segments, 1 MiB at a time, many in flight.
  Result<double> DeviceRate() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(options_.folder)) {
      if (entry.path().extension() == ".kvseg") files.push_back(entry.path());
    }
    HM_ASSIGN(const auto reader, OpenFileReader(files));
    constexpr size_t kPiece = size_t{1} << 20;
    constexpr size_t kDepth = 32;
    tensor::AlignedBuffer buffer((kDepth + 1) * kPiece);
    std::byte* base = buffer.data();
    base += FileReader::kAlignment - reinterpret_cast<uintptr_t>(base) % FileReader::kAlignment;
    std::vector<size_t> free;
    for (size_t i = 0; i < kDepth; ++i) free.push_back(i);
    const TimeUs begin = clock_.NowUs();
    uint64_t bytes = 0;
    const auto finish_one = [&]() -> Status {
      const FileReadDone done = reader->Next();
      free.push_back(done.tag);
      return done.status;
    };
    for (size_t file = 0; file < files.size(); ++file) {
      const uint64_t size = std::filesystem::file_size(files[file]);
      for (uint64_t at = 0; at < size; at += kPiece) {
        if (free.empty()) HM_TRY(finish_one());
        const size_t slot = free.back();
        free.pop_back();
        const auto count = static_cast<size_t>(std::min<uint64_t>(kPiece, size - at));
        reader->Submit({.tag = slot,
                        .file = file,
                        .offset = at,
                        .size_bytes = count,
                        .buffer = base + slot * kPiece});
        bytes += count;
      }
    }
    while (reader->pending() > 0) HM_TRY(finish_one());
    return static_cast<double>(bytes) / static_cast<double>(clock_.NowUs() - begin) * 1e6;
  }

  json::object Line(const char* what) const {
    return {{"bench", "kv_store"},
            {"case", what},
            {"commit", options_.commit},
            {"machine", CpuName()},
            {"threads", pool_->num_threads()},
            {"model", std::filesystem::path(options_.model).filename().string()},
            {"family", model_->description().family},
            {"kv_bytes_per_token", model_->kv_layout().bytes_per_token()}};
  }
  static void Print(const json::object& line) {
    std::printf("%s\n", json::Serialize(line).c_str());
    std::fflush(stdout);
  }

  Status MeasureLength(int length) {
    const std::vector<int32_t> prompt = Prompt(length, length);
    double write_rate = 0.0;
    {
      HM_ASSIGN(const auto store, OpenStore());
      HM_ASSIGN(const auto engine, StartEngine(store.get()));
      HM_TRY(Ask(engine.get(), prompt, 1));
      AwaitOffers(*engine, store.get());
      const store::StoreStats stats = store->Stats();
      write_rate = static_cast<double>(stats.disk.write_bytes) /
                   static_cast<double>(std::max<uint64_t>(1, stats.disk.write_us)) * 1e6;
    }
    std::vector<double> computed;
    std::vector<double> restored;
    std::vector<double> rates;
    std::string method;
    for (int i = 0; i < options_.repeats; ++i) {
      {
        HM_ASSIGN(const auto engine, StartEngine(nullptr));
        HM_ASSIGN(const Answer answer, Ask(engine.get(), prompt, 1));
        computed.push_back(answer.first_token_us);
      }
      HM_ASSIGN(const auto store, OpenStore());
      HM_ASSIGN(const auto engine, StartEngine(store.get()));
      HM_ASSIGN(const Answer answer, Ask(engine.get(), prompt, 1));
      const store::StoreStats stats = store->Stats();
      if (answer.cached_tokens == 0) {
        return Error(ErrorCode::kInternal, "nothing was read back");
      }
      method = store->disk_method();
      restored.push_back(answer.first_token_us);
      rates.push_back(static_cast<double>(stats.disk.read_bytes) /
                      static_cast<double>(std::max<uint64_t>(1, stats.disk.read_us)) * 1e6);
    }
    HM_ASSIGN(const double device, DeviceRate());
    json::object line = Line("restore");
    line["method"] = method;
    line["prompt_tokens"] = length;
    line["computed_ms"] = Median(computed) * 1e-3;
    line["restored_ms"] = Median(restored) * 1e-3;
    line["times_faster"] = Median(computed) / Median(restored);
    line["spread"] = (*std::ranges::max_element(restored) - *std::ranges::min_element(restored)) /
                     Median(restored);
    line["read_bytes_per_s"] = Median(rates);
    line["write_bytes_per_s"] = write_rate;
    line["device_bytes_per_s"] = device;
    line["share_of_device"] = Median(rates) / device;
    Print(line);
    return {};
  }

  // Tokens a second of some sequences that decode together.
  Result<double> DecodeRate(store::BlockStore* store, int salt) {
    HM_ASSIGN(const auto engine, StartEngine(store));
    std::vector<std::unique_ptr<engine::RequestHandle>> handles;
    const TimeUs begin = clock_.NowUs();
    for (int i = 0; i < options_.sequences; ++i) {
      engine::Request request;
      request.prompt_ids = Prompt(16, salt + i);
      request.max_tokens = options_.decode_tokens;
      request.sampling.temperature = 0.0f;
      HM_ASSIGN(auto handle, engine->Submit(std::move(request)));
      handles.push_back(std::move(handle));
    }
    for (const auto& handle : handles) HM_TRY(Read(handle.get(), begin));
    return options_.sequences * options_.decode_tokens /
           (static_cast<double>(clock_.NowUs() - begin) * 1e-6);
  }

  Status MeasureDecode() {
    std::vector<double> plain;
    std::vector<double> stored;
    uint64_t blocks = 0;
    for (int i = 0; i < options_.repeats; ++i) {
      HM_ASSIGN(const double without, DecodeRate(nullptr, 100'000 + 100 * i));
      HM_ASSIGN(const auto store, OpenStore());
      const uint64_t before = store->Stats().disk.blocks;
      HM_ASSIGN(const double with, DecodeRate(store.get(), 100'000 + 100 * i));
      (void)store->Flush(kLongUs);
      blocks += store->Stats().disk.blocks - before;
      plain.push_back(without);
      stored.push_back(with);
    }
    json::object line = Line("decode");
    line["sequences"] = options_.sequences;
    line["tokens_per_s"] = Median(plain);
    line["tokens_per_s_with_store"] = Median(stored);
    line["ratio"] = Median(stored) / Median(plain);
    line["blocks_written"] = blocks;
    Print(line);
    return {};
  }

  const Options options_;
  MonotonicClock clock_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<model::Model> model_;
};

Status Run(const Options& options) {
  HM_ASSIGN(std::shared_ptr<const checkpoint::Checkpoint> checkpoint,
            checkpoint::Open(options.model));
  auto pool =
      std::make_unique<ThreadPool>(PlanThreads(ReadTopology(), options.threads, Pinning::kAuto));
  const int longest = *std::ranges::max_element(options.lengths);
  HM_ASSIGN(auto model,
            model::Model::Load(checkpoint, pool.get(),
                               {.isa = kernels::BestIsa(),
                                .max_sequences = 64,
                                .max_context = std::max(longest + 16, 2 * options.decode_tokens)}));
  return Bench(options, std::move(pool), std::move(model)).Run();
}

}  // namespace
}  // namespace halfmoon

int main(int argc, char** argv) {
  halfmoon::Options options;
  CLI::App app("Prompts read back from disk against prompts computed");
  app.add_option("-m,--model", options.model, "Model")->required();
  app.add_option("--dir", options.folder, "Folder for the segments; 8 GiB at most")->required();
  app.add_option("--lengths", options.lengths, "Tokens of prompts")->delimiter(',');
  app.add_option("--repeats", options.repeats, "Times each case is measured");
  app.add_option("--sequences", options.sequences, "That decode together");
  app.add_option("--decode-tokens", options.decode_tokens, "Of each of them");
  app.add_option("-t,--threads", options.threads, "Threads; 0: physical cores");
  app.add_option("--commit", options.commit, "Name of what is measured");
  CLI11_PARSE(app, argc, argv);
  const halfmoon::Status status = halfmoon::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_kv_store: %s\n", status.error().message().c_str());
  return 1;
}
