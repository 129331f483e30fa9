// SPDX-License-Identifier: Apache-2.0
// Running answers beside a long prompt: what each keeps of its speed, one JSON line a case:
//   bench_fair_share -m model.gguf [--prompt 30000] [--running 4] [--shares 0,0.7] [--stalls 200]
//                    [--commit NAME]
//
// Answers are being decoded when the prompt arrives, and go on beside it until it has been read.
// Then the same answers are made once more, alone. `kept` is the time that the tokens from beside
// the prompt take alone, divided by what they took. Times are those at which a client gets its
// tokens.
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

/// The tokens [begin, end) of an answer, by when the client got them, end - begin at least 2.
struct Range {
  size_t begin, end;
};

double Seconds(const Client& client, const Range& range) {
  return static_cast<double>(client.arrivals_us[range.end - 1] - client.arrivals_us[range.begin]) *
         1e-6;
}

/// What lies between two tokens of an answer, in ascending order.
struct Gaps {
  std::vector<double> ms;

  void Add(const Client& client, const Range& range) {
    for (size_t i = range.begin + 1; i < range.end; ++i) {
      ms.push_back(static_cast<double>(client.arrivals_us[i] - client.arrivals_us[i - 1]) * 1e-3);
    }
  }
  json::object Summary() {
    std::sort(ms.begin(), ms.end());
    const auto percentile = [&](double part) {
      return ms[static_cast<size_t>(part * static_cast<double>(ms.size() - 1))];
    };
    return {{"p50", percentile(0.5)}, {"p99", percentile(0.99)}, {"max", ms.back()}};
  }
};

/// The answers, client i's of at most max_tokens(i) tokens. The same ones each time.
template <typename MaxTokens>
Status StartAnswers(engine::Engine* engine, const Options& options, int32_t vocab_size,
                    const Clock* clock, const MaxTokens& max_tokens, std::vector<Client>* clients) {
  for (size_t i = 0; i < clients->size(); ++i) {
    Client& client = (*clients)[i];
    HM_ASSIGN(client.handle,
              engine->Submit(RandomRequest(vocab_size, options.running_prompt_tokens, max_tokens(i),
                                           static_cast<uint32_t>(i + 1))));
    client.Read(clock);
  }
  return {};
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
  HM_TRY(StartAnswers(
      engine.get(), options, vocab_size, &clock,
      [&](size_t) { return static_cast<int32_t>(context); }, &clients));
  const auto sleep = [](double s) {
    std::this_thread::sleep_for(std::chrono::duration<double>(s));
  };
  for (const Client& client : clients) {
    while (!client.started) sleep(0.01);
  }
  sleep(1.0);
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
  std::vector<Range> beside;
  for (Client& client : clients) {
    client.handle->Cancel();
    client.reader.join();
    const auto at = [&](TimeUs time_us) {
      return static_cast<size_t>(std::ranges::lower_bound(client.arrivals_us, time_us) -
                                 client.arrivals_us.begin());
    };
    beside.push_back({at(begin_us), at(end_us)});
    if (beside.back().end - beside.back().begin < 2) {
      return Error(ErrorCode::kInvalidArgument,
                   "an answer got no two tokens beside the prompt: take a longer prompt");
    }
  }
  // The same tokens of the same answers once more, with nothing beside them: what a token costs
  // grows with the tokens before it.
  std::vector<Client> alone(clients.size());
  HM_TRY(StartAnswers(
      engine.get(), options, vocab_size, &clock,
      [&](size_t i) { return static_cast<int32_t>(beside[i].end); }, &alone));
  double beside_s = 0.0;
  double alone_s = 0.0;
  double tokens = 0.0;
  Gaps beside_gaps;
  Gaps alone_gaps;
  for (size_t i = 0; i < alone.size(); ++i) {
    alone[i].reader.join();
    if (alone[i].arrivals_us.size() != beside[i].end) {
      return Error(ErrorCode::kInternal, "an answer ended early when it ran alone");
    }
    tokens += static_cast<double>(beside[i].end - beside[i].begin - 1);
    beside_s += Seconds(clients[i], beside[i]);
    alone_s += Seconds(alone[i], beside[i]);
    beside_gaps.Add(clients[i], beside[i]);
    alone_gaps.Add(alone[i], beside[i]);
  }
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
                          {"alone_tokens_per_s", tokens / alone_s * options.running},
                          {"beside_tokens_per_s", tokens / beside_s * options.running},
                          {"kept", alone_s / beside_s},
                          {"alone_gap_ms", alone_gaps.Summary()},
                          {"beside_gap_ms", beside_gaps.Summary()},
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
