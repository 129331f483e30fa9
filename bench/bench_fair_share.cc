// SPDX-License-Identifier: Apache-2.0
// Running answers beside a long prompt: what each keeps of its speed, one JSON line a case:
//   bench_fair_share -m model.gguf [--prompt 30000] [--running 4] [--shares 0,0.7] [--stalls 200]
//                    [--alone 5] [--commit NAME]
//
// The answers are decoded alone for some seconds, then a prompt arrives and they go on beside it
// until it has been read, and then alone again. Times are those at which a client gets its tokens.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/topology.h"
#include "engine/engine.h"
#include "model/model.h"

namespace halfmoon {
namespace {

struct Options {
  std::string model;
  int prompt_tokens = 30000;
  int running = 4;
  int running_prompt_tokens = 32;
  std::vector<double> shares = {0.0, 0.7};
  std::vector<double> stalls_ms = {200.0};
  double alone_s = 5.0;
  int batch_tokens = 512;
  int threads = 0;
  std::string commit = "unknown";
};

engine::Request RandomRequest(int32_t vocab_size, int prompt_tokens, int32_t max_tokens,
                              uint32_t seed) {
  std::mt19937 random(seed);
  engine::Request request;
  for (int i = 0; i < prompt_tokens; ++i) {
    request.prompt_ids.push_back(
        static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
  }
  request.sampling.temperature = 0.0f;
  request.max_tokens = max_tokens;
  return request;
}

/// A client: its request, and when it got each token.
struct Client {
  Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() {
    if (handle != nullptr) handle->Cancel();
    if (reader.joinable()) reader.join();
  }

  std::unique_ptr<engine::RequestHandle> handle;
  std::vector<TimeUs> arrivals_us;
  std::atomic<bool> started{false};
  std::atomic<bool> ended{false};
  std::thread reader;

  void Read(const Clock* clock) {
    reader = std::thread([this, clock] {
      while (const std::optional<engine::Event> event = handle->Next()) {
        if (!std::holds_alternative<engine::TokenEvent>(*event)) continue;
        arrivals_us.push_back(clock->NowUs());
        started = true;
      }
      ended = true;
      started = true;  // an answer that ended without a token is waited for by nobody
    });
  }
};

/// Tokens between two times, and the gaps between them, in ascending order.
struct Window {
  double tokens_per_s = 0.0;
  std::vector<double> gaps_ms;

  double Percentile(double part) const {
    if (gaps_ms.empty()) return 0.0;
    return gaps_ms[static_cast<size_t>(part * static_cast<double>(gaps_ms.size() - 1))];
  }
};

Window Between(const std::vector<Client>& clients, TimeUs begin_us, TimeUs end_us) {
  Window window;
  int tokens = 0;
  for (const Client& client : clients) {
    for (size_t i = 1; i < client.arrivals_us.size(); ++i) {
      const TimeUs at_us = client.arrivals_us[i];
      if (at_us < begin_us || at_us >= end_us) continue;
      ++tokens;
      window.gaps_ms.push_back(static_cast<double>(at_us - client.arrivals_us[i - 1]) * 1e-3);
    }
  }
  window.tokens_per_s = tokens / (static_cast<double>(end_us - begin_us) * 1e-6);
  std::sort(window.gaps_ms.begin(), window.gaps_ms.end());
  return window;
}

Status Measure(model::Model* model, int threads, const Options& options, double share,
               double stall_ms) {
  const MonotonicClock clock;
  const auto context = static_cast<int64_t>(model->max_context());
  const kernels::KvLayout& layout = model->kv_layout();
  const int64_t pages = (options.running + 1) * (context / layout.block_size + 1);
  HM_ASSIGN(const std::unique_ptr<engine::Engine> engine,
            engine::Engine::Start(model, &clock,
                                  {.kv_bytes = static_cast<size_t>(pages) * layout.page_bytes(),
                                   .step_tokens = options.batch_tokens,
                                   .prefix_cache = false,
                                   .decode_share = share,
                                   .max_stall_us = static_cast<TimeUs>(stall_ms * 1e3)}));
  const auto vocab_size = static_cast<int32_t>(model->vocab_size());
  std::vector<Client> clients(static_cast<size_t>(options.running));
  for (size_t i = 0; i < clients.size(); ++i) {
    HM_ASSIGN(clients[i].handle, engine->Submit(RandomRequest(
                                     vocab_size, options.running_prompt_tokens,
                                     static_cast<int32_t>(context), static_cast<uint32_t>(i + 1))));
    clients[i].Read(&clock);
  }
  const auto sleep = [](double s) {
    std::this_thread::sleep_for(std::chrono::duration<double>(s));
  };
  for (const Client& client : clients) {
    while (!client.started) sleep(0.01);
  }
  sleep(0.2);
  const TimeUs alone_us = clock.NowUs();
  sleep(options.alone_s);
  const TimeUs begin_us = clock.NowUs();
  HM_ASSIGN(const std::unique_ptr<engine::RequestHandle> prompt,
            engine->Submit(RandomRequest(vocab_size, options.prompt_tokens, 1, 99)));
  while (const std::optional<engine::Event> event = prompt->Next()) {
    if (std::holds_alternative<engine::TokenEvent>(*event)) break;
  }
  const TimeUs end_us = clock.NowUs();
  if (std::ranges::any_of(clients, [](const Client& client) { return client.ended.load(); })) {
    return Error(ErrorCode::kInvalidArgument,
                 "an answer reached the end of its context before the prompt had been read: take "
                 "more answers, a shorter prompt or a larger model");
  }
  const engine::EngineStats stats = engine->Stats();
  sleep(options.alone_s);
  const TimeUs after_us = clock.NowUs();
  for (Client& client : clients) {
    client.handle->Cancel();
    client.reader.join();
  }
  // The answers grow meanwhile, and what a token costs grows in proportion: alone, the tokens of
  // the time beside the prompt would have taken the mean of the times of a token before and after.
  const Window before = Between(clients, alone_us, begin_us);
  const Window after = Between(clients, end_us, after_us);
  const double alone_tokens_per_s = 2.0 / (1.0 / before.tokens_per_s + 1.0 / after.tokens_per_s);
  const Window beside = Between(clients, begin_us, end_us);
  const double ttft_s = static_cast<double>(end_us - begin_us) * 1e-6;
  const json::object line{{"bench", "fair_share"},
                          {"commit", options.commit},
                          {"machine", CpuName()},
                          {"threads", threads},
                          {"model", std::filesystem::path(options.model).filename().string()},
                          {"running", options.running},
                          {"prompt_tokens", options.prompt_tokens},
                          {"decode_share", share},
                          {"max_stall_ms", stall_ms},
                          {"chunk_tokens", stats.prompt_chunk_tokens},
                          {"alone_before_tokens_per_s", before.tokens_per_s},
                          {"alone_after_tokens_per_s", after.tokens_per_s},
                          {"beside_tokens_per_s", beside.tokens_per_s},
                          {"kept", beside.tokens_per_s / alone_tokens_per_s},
                          {"alone_after_gap_ms", json::object{{"p50", after.Percentile(0.5)},
                                                              {"p99", after.Percentile(0.99)}}},
                          {"beside_gap_ms", json::object{{"p50", beside.Percentile(0.5)},
                                                         {"p99", beside.Percentile(0.99)},
                                                         {"max", beside.Percentile(1.0)}}},
                          {"ttft_s", ttft_s},
                          {"prompt_tokens_per_s", options.prompt_tokens / ttft_s}};
  std::printf("%s\n", json::Serialize(line).c_str());
  std::fflush(stdout);
  return {};
}

Status Run(const Options& options) {
  HM_TRY(InitLogging("warning"));
  HM_ASSIGN(const std::shared_ptr<const checkpoint::Checkpoint> checkpoint,
            checkpoint::Open(options.model));
  ThreadPool pool(options.threads > 0 ? options.threads : DefaultThreadCount());
  HM_ASSIGN(const std::unique_ptr<model::Model> model,
            model::Model::Load(checkpoint, &pool,
                               {.isa = kernels::BestIsa(),
                                .max_step_tokens = options.batch_tokens,
                                .max_sequences = options.running + 1,
                                .max_context = options.prompt_tokens + 2}));
  for (const double share : options.shares) {
    for (const double stall_ms : options.stalls_ms) {
      HM_TRY(Measure(model.get(), pool.num_threads(), options, share, stall_ms));
    }
  }
  return {};
}

}  // namespace
}  // namespace halfmoon

int main(int argc, char** argv) {
  halfmoon::Options options;
  CLI::App app("Running answers beside a long prompt: what each keeps of its speed");
  app.add_option("-m,--model", options.model, "A model")->required();
  app.add_option("--prompt", options.prompt_tokens, "Tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--running", options.running, "Answers that run")->check(CLI::Range(1, 1024));
  app.add_option("--shares", options.shares, "Values of --decode-share")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 0.99));
  app.add_option("--stalls", options.stalls_ms, "Values of --max-stall, milliseconds")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 60000.0));
  app.add_option("--alone", options.alone_s, "Seconds that the answers run alone")
      ->check(CLI::Range(0.1, 600.0));
  app.add_option("-b,--batch-size", options.batch_tokens, "Tokens of a step")
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("-t,--threads", options.threads, "Threads")->check(CLI::Range(0, 1024));
  app.add_option("--commit", options.commit, "Named in the output");
  CLI11_PARSE(app, argc, argv);
  const halfmoon::Status status = halfmoon::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_fair_share: %s\n", status.error().message().c_str());
  return 1;
}
