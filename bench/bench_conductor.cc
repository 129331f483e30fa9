// SPDX-License-Identifier: Apache-2.0
// What a decision of the conductor takes, one JSON line a case:
//   bench_conductor [--nodes 1000] [--keys 100000000] [--decisions 20000] [--commit NAME]
//
// Half of the nodes prefill, half decode with 30 sequences each. They hold `keys` blocks in
// documents of 250, and a prefix of 4 blocks that is on every node. A request is that prefix, a
// part of a random document, and blocks that nobody has: 64 in the mean, at most 250, of 512
// tokens. Cases: 0.1 % of the keys, and all of them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "cluster/conductor.h"

namespace halfmoon {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint64_t kDocumentBlocks = 250;
constexpr uint64_t kSharedBlocks = 4;
constexpr int kSequencesPerNode = 30;

struct Options {
  uint32_t nodes = 1000;
  uint64_t keys = 100'000'000;
  int decisions = 20'000;
  std::string policy = "global";
  std::string commit = "unknown";
};

/// Of this thread: what a decision takes where other programs take turns on the core.
double CpuUs() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

uint64_t Mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}
kv::BlockKey Key(uint64_t number) { return {{.high = number, .low = Mix(number)}}; }

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        conductor_({.policy = *cluster::FindPolicy(options.policy),
                    .reject = cluster::RejectPolicy::kPredictive}) {
    for (uint32_t i = 0; i < options.nodes; ++i) {
      cluster::NodeInfo info{.role = i % 2 == 0 ? cluster::Role::kPrefill : cluster::Role::kDecode,
                             .kv_tokens = 1'500'000,
                             .kv_bytes_per_token = 327'680,
                             .costs = {.prefill = {.token_us = 98.6, .position_us = 0.0044},
                                       .decode = {.fixed_us = 66'446.0, .kv_token_us = 0.05},
                                       .network_bytes_per_s = 1e11}};
      conductor_.NodeJoined(cluster::NodeId{i}, info);
      for (uint64_t block = 0; block < kSharedBlocks; ++block) Store(i, block);
    }
  }

  void Fill(uint64_t keys) {
    for (; num_keys_ < keys; ++num_keys_) {
      const uint64_t document = num_keys_ / kDocumentBlocks;
      Store(static_cast<uint32_t>(Mix(document) % options_.nodes) & ~1u, kSharedBlocks + num_keys_);
    }
  }

  void Measure() {
    std::vector<double> us;
    std::vector<double> cpu_us;
    std::vector<kv::BlockKey> keys;
    const size_t live = size_t{options_.nodes} / 2 * kSequencesPerNode;
    size_t hits = 0;
    const int warm_up = static_cast<int>(live);
    for (int i = 0; i < warm_up + options_.decisions; ++i) {
      MakePrompt(&keys);
      const cluster::RequestId id{next_request_++};
      now_us_ += 1'000'000 / 200;
      const auto start = SteadyClock::now();
      const double cpu_start_us = CpuUs();
      const cluster::Decision decision =
          conductor_.Place({.id = id,
                            .prompt_tokens = static_cast<int32_t>(keys.size()) * 512,
                            .keys = keys,
                            .block_tokens = 512,
                            .expected_output_tokens = 343,
                            .limits = {.ttft_us = 30'000'000, .tbt_us = 200'000}},
                           now_us_);
      const double cpu_end_us = CpuUs();
      const auto end = SteadyClock::now();
      if (const auto* placement = std::get_if<cluster::Placement>(&decision)) {
        hits += placement->prefix_tokens > 512 * static_cast<int32_t>(kSharedBlocks) ? 1 : 0;
        conductor_.PrefillStarted(id, now_us_);
        conductor_.PrefillEnded(id, 0.0, now_us_);
        conductor_.DecodeJoined(id, now_us_);
        running_.push_back(id);
      }
      if (running_.size() - first_running_ > live) {
        conductor_.RequestEnded(running_[first_running_++], 343, now_us_);
      }
      if (i >= warm_up) {
        us.push_back(std::chrono::duration<double, std::micro>(end - start).count());
        cpu_us.push_back(cpu_end_us - cpu_start_us);
      }
    }
    std::ranges::sort(us);
    std::ranges::sort(cpu_us);
    const auto quantile = [](const std::vector<double>& values, double share) {
      return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
    };
    const auto at = [&](double share) { return quantile(us, share); };
    const cluster::PrefixDirectory& directory = conductor_.directory();
    const json::object line{
        {"commit", options_.commit},
        {"policy", options_.policy},
        {"nodes", options_.nodes},
        {"keys", num_keys_},
        {"entries", directory.num_entries()},
        {"directory_bytes", directory.memory_bytes()},
        {"bytes_per_key", static_cast<double>(directory.memory_bytes()) /
                              static_cast<double>(std::max<uint64_t>(1, directory.num_entries()))},
        {"decisions", us.size()},
        {"hits", hits},
        {"p50_us", at(0.5)},
        {"p99_us", at(0.99)},
        {"p999_us", at(0.999)},
        {"max_us", us.back()},
        {"cpu_p50_us", quantile(cpu_us, 0.5)},
        {"cpu_p99_us", quantile(cpu_us, 0.99)}};
    std::printf("%s\n", json::Serialize(line).c_str());
    std::fflush(stdout);
  }

 private:
  void Store(uint32_t node, uint64_t block) {
    const kv::BlockKey key = Key(block);
    conductor_.BlocksStored(cluster::NodeId{node}, cluster::Tier::kDram, {&key, 1});
  }

  void MakePrompt(std::vector<kv::BlockKey>* keys) {
    keys->clear();
    for (uint64_t block = 0; block < kSharedBlocks; ++block) keys->push_back(Key(block));
    std::exponential_distribution<double> length(1.0 / 60.0);
    const auto blocks = std::min<uint64_t>(kDocumentBlocks - kSharedBlocks,
                                           1 + static_cast<uint64_t>(length(random_)));
    const uint64_t documents = std::max<uint64_t>(1, num_keys_ / kDocumentBlocks);
    const uint64_t first = kSharedBlocks + random_() % documents * kDocumentBlocks;
    const uint64_t known = random_() % (blocks + 1);
    for (uint64_t i = 0; i < known; ++i) keys->push_back(Key(first + i));
    for (uint64_t i = known; i < blocks; ++i) keys->push_back(Key(~fresh_++));
  }

  const Options options_;
  cluster::Conductor conductor_;
  std::mt19937_64 random_{1};
  uint64_t num_keys_ = 0;
  uint64_t fresh_ = 0;
  uint64_t next_request_ = 1;
  TimeUs now_us_ = 0;
  std::vector<cluster::RequestId> running_;
  size_t first_running_ = 0;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("What a decision of the conductor takes");
  app.add_option("--nodes", options.nodes)->check(CLI::Range(2, 50'000))->capture_default_str();
  app.add_option("--keys", options.keys)->capture_default_str();
  app.add_option("--decisions", options.decisions)->check(CLI::Range(1, 10'000'000));
  app.add_option("--policy", options.policy)->check(CLI::IsMember({"slack", "global", "local"}));
  app.add_option("--commit", options.commit);
  CLI11_PARSE(app, argc, argv);
  Bench bench(options);
  bench.Fill(options.keys / 1000);
  bench.Measure();
  bench.Fill(options.keys);
  bench.Measure();
  return 0;
}

}  // namespace
}  // namespace halfmoon

int main(int argc, char** argv) { return halfmoon::Main(argc, argv); }
