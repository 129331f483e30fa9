// SPDX-License-Identifier: Apache-2.0
#include "sim/fuzz.h"

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "base/json.h"
#include "sim/report.h"
#include "sim/run_options.h"

namespace halfmoon::sim {
namespace {

constexpr int32_t kBlockTokens = 64;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  /// In [least, most].
  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine_() % static_cast<uint64_t>(most - least + 1));
  }
  bool OneIn(int64_t n) { return Between(1, n) == 1; }

 private:
  std::mt19937_64 engine_;
};

CostModel MakeModel(Random* random) {
  return {
      .name = "fuzz",
      .costs = {.prefill = {.fixed_us = static_cast<double>(random->Between(0, 2000)),
                            .token_us = static_cast<double>(random->Between(1, 2000)),
                            .position_us = 0.01 * static_cast<double>(random->Between(0, 20))},
                .decode = {.fixed_us = static_cast<double>(random->Between(1, 50'000)),
                           .sequence_us = static_cast<double>(random->Between(0, 3000)),
                           .kv_token_us = static_cast<double>(random->Between(0, 3))},
                .network_bytes_per_s =
                    random->OneIn(4) ? 0.0 : 1e6 * static_cast<double>(random->Between(1, 1000)),
                .ssd_bytes_per_s =
                    random->OneIn(4) ? 0.0 : 1e6 * static_cast<double>(random->Between(1, 1000))},
      .layers = static_cast<int32_t>(random->Between(1, 60)),
      .kv_bytes_per_token = random->Between(1, 10'000),
      .kv_tokens = random->Between(500, 20'000),
      .max_running = static_cast<int32_t>(random->Between(1, 20))};
}

// Prompts continue one another, so that they share beginnings of any length.
Trace MakeTrace(Random* random) {
  Trace trace{.block_tokens = kBlockTokens, .requests = {}, .blocks = {}};
  const auto requests = static_cast<size_t>(random->Between(1, 150));
  const TimeUs gap_us = random->Between(0, 300'000);
  TimeUs at_us = 0;
  uint64_t next_block = 0;
  std::vector<std::vector<uint64_t>> prompts;
  for (size_t i = 0; i < requests; ++i) {
    if (!random->OneIn(3)) at_us += random->Between(0, gap_us);
    TraceRequest request{.arrival_us = at_us,
                         .prompt_tokens = static_cast<int32_t>(random->Between(1, 1200)),
                         .output_tokens = static_cast<int32_t>(random->Between(1, 80)),
                         .first_block = trace.blocks.size()};
    if (!random->OneIn(8)) {
      request.num_blocks = (request.prompt_tokens + kBlockTokens - 1) / kBlockTokens;
      std::vector<uint64_t> ids;
      if (!prompts.empty() && !random->OneIn(3)) {
        ids = prompts[static_cast<size_t>(
            random->Between(0, static_cast<int64_t>(prompts.size()) - 1))];
        ids.resize(
            std::min(ids.size(), static_cast<size_t>(random->Between(0, request.num_blocks))));
      }
      while (ids.size() < static_cast<size_t>(request.num_blocks)) ids.push_back(next_block++);
      trace.blocks.insert(trace.blocks.end(), ids.begin(), ids.end());
      prompts.push_back(std::move(ids));
    }
    trace.requests.push_back(request);
  }
  return trace;
}

}  // namespace

FuzzCase MakeFuzzCase(uint64_t seed) {
  Random random(seed);
  FuzzCase made{.options = {}, .model = MakeModel(&random), .trace = MakeTrace(&random)};
  SimOptions& o = made.options;
  o.decode_nodes = static_cast<int32_t>(random.Between(0, 4));
  o.prefill_nodes = o.decode_nodes == 0 ? 0 : static_cast<int32_t>(random.Between(0, 4));
  o.coupled_nodes = static_cast<int32_t>(random.Between(o.decode_nodes == 0 ? 1 : 0, 2));
  o.coupled_cache = random.OneIn(2);
  o.coupled_chunk_tokens = random.OneIn(2) ? 0 : static_cast<int32_t>(random.Between(1, 600));
  const auto policies = cluster::Policies();
  o.policy =
      policies[static_cast<size_t>(random.Between(0, static_cast<int64_t>(policies.size()) - 1))];
  constexpr std::array kRejects{cluster::RejectPolicy::kNone, cluster::RejectPolicy::kLate,
                                cluster::RejectPolicy::kEarly, cluster::RejectPolicy::kPredictive};
  o.reject = kRejects[static_cast<size_t>(random.Between(0, 3))];
  o.limits = {.ttft_us = random.OneIn(3) ? 0 : random.Between(10'000, 5'000'000),
              .tbt_us = random.OneIn(3) ? 0 : random.Between(1000, 300'000)};
  o.dram_tokens = random.Between(0, 5000);
  o.ssd_tokens = random.OneIn(2) ? 0 : random.Between(0, 10'000);
  o.jitter_us = random.OneIn(2) ? 0 : random.Between(1, 1'000'000);
  o.output_known = random.OneIn(2);
  o.detailed = random.OneIn(2);
  o.report_delay_us = random.OneIn(2) ? 0 : random.Between(1, 500'000);
  if (random.OneIn(4)) o.first_token = cluster::FirstToken::kDecode;
  o.seed = seed;
  const int32_t nodes = o.prefill_nodes + o.decode_nodes + o.coupled_nodes;
  const TimeUs end_us = made.trace.requests.back().arrival_us + 2'000'000;
  for (int64_t i = random.Between(0, 12); i > 0; --i) {
    const TimeUs at_us = random.Between(0, end_us);
    o.faults.push_back({.at_us = at_us,
                        .back_us = at_us + random.Between(1, 3'000'000),
                        .node = static_cast<int32_t>(random.Between(0, nodes - 1)),
                        .notice_us = random.OneIn(2) ? 0 : random.Between(1, 1'500'000),
                        .keeps_blocks = random.OneIn(2)});
  }
  return made;
}

std::string RunFuzzCase(const FuzzCase& fuzz_case) {
  std::string texts[2];
  for (std::string& text : texts) {
    Simulator simulator(fuzz_case.options, fuzz_case.model, fuzz_case.trace);
    std::vector<Run> runs(1);
    runs[0].options = fuzz_case.options;
    runs[0].result = simulator.Run();
    if (!simulator.violation().empty()) return simulator.violation();
    runs[0].summary = Summarize(runs[0].result, fuzz_case.options.limits);
    text = json::Serialize(ReportJson(runs, ""));
  }
  return texts[0] == texts[1] ? "" : "two runs of the same case differ";
}

namespace {

bool StillFails(const FuzzCase& candidate) {
  return !candidate.trace.requests.empty() && CheckOptions(candidate.options).ok() &&
         !RunFuzzCase(candidate).empty();
}

/// Without a part of the items, halves first, then smaller parts.
template <typename Member>
bool LeaveOut(FuzzCase* fuzz_case, Member member) {
  bool smaller = false;
  for (size_t count = member(*fuzz_case).size(); count >= 1; count /= 2) {
    for (size_t first = 0; first + count <= member(*fuzz_case).size();) {
      FuzzCase candidate = *fuzz_case;
      auto& items = member(candidate);
      const auto begin = items.begin() + static_cast<std::ptrdiff_t>(first);
      items.erase(begin, begin + static_cast<std::ptrdiff_t>(count));
      if (StillFails(candidate)) {
        *fuzz_case = std::move(candidate);
        smaller = true;
      } else {
        first += count;
      }
    }
  }
  return smaller;
}

bool FaultsHaveNodes(const SimOptions& o) {
  const int32_t nodes = o.prefill_nodes + o.decode_nodes + o.coupled_nodes;
  return std::ranges::all_of(o.faults, [&](const Fault& fault) { return fault.node < nodes; });
}

/// With simpler options, one after the other.
bool Simplify(FuzzCase* fuzz_case) {
  using Change = void (*)(SimOptions*);
  constexpr std::array<Change, 9> kChanges{
      [](SimOptions* o) { o->jitter_us = 0; },
      [](SimOptions* o) { o->report_delay_us = 0; },
      [](SimOptions* o) { o->detailed = false; },
      [](SimOptions* o) { o->ssd_tokens = 0; },
      [](SimOptions* o) { o->dram_tokens = 0; },
      [](SimOptions* o) { o->reject = cluster::RejectPolicy::kNone; },
      [](SimOptions* o) { o->coupled_nodes = std::max(0, o->coupled_nodes - 1); },
      [](SimOptions* o) { o->decode_nodes = std::max(0, o->decode_nodes - 1); },
      [](SimOptions* o) { o->prefill_nodes = std::max(0, o->prefill_nodes - 1); }};
  bool smaller = false;
  for (const Change change : kChanges) {
    FuzzCase candidate = *fuzz_case;
    change(&candidate.options);
    const std::string text = Describe(candidate);
    if (text == Describe(*fuzz_case) || !FaultsHaveNodes(candidate.options)) continue;
    if (!StillFails(candidate)) continue;
    *fuzz_case = std::move(candidate);
    smaller = true;
  }
  return smaller;
}

}  // namespace

FuzzCase Shrink(FuzzCase fuzz_case) {
  const auto faults = [](FuzzCase& c) -> std::vector<Fault>& { return c.options.faults; };
  const auto requests = [](FuzzCase& c) -> std::vector<TraceRequest>& { return c.trace.requests; };
  for (bool smaller = true; smaller;) {
    smaller = LeaveOut(&fuzz_case, requests);
    smaller = LeaveOut(&fuzz_case, faults) || smaller;
    smaller = Simplify(&fuzz_case) || smaller;
  }
  return fuzz_case;
}

std::string Describe(const FuzzCase& fuzz_case) {
  const SimOptions& o = fuzz_case.options;
  std::string text =
      std::to_string(o.prefill_nodes) + " prefill, " + std::to_string(o.decode_nodes) +
      " decode, " + std::to_string(o.coupled_nodes) + " coupled nodes, policy " +
      std::string(o.policy.name) + ", reject " + std::string(cluster::RejectPolicyName(o.reject)) +
      "\n  DRAM " + std::to_string(o.dram_tokens) + ", SSD " + std::to_string(o.ssd_tokens) +
      " tokens; arrivals up to " + std::to_string(o.jitter_us) + " us later, reports up to " +
      std::to_string(o.report_delay_us) + " us" +
      (o.detailed ? "; steps of the scheduler\n" : "\n");
  for (const Fault& fault : o.faults) {
    text += "  node " + std::to_string(fault.node) + " away from " + std::to_string(fault.at_us) +
            " to " + std::to_string(fault.back_us) + " us, known after " +
            std::to_string(fault.notice_us) + " us" +
            (fault.keeps_blocks ? ", keeps its blocks\n" : "\n");
  }
  for (const TraceRequest& request : fuzz_case.trace.requests) {
    text += "  request at " + std::to_string(request.arrival_us) +
            " us: " + std::to_string(request.prompt_tokens) + " + " +
            std::to_string(request.output_tokens) + " tokens, " +
            std::to_string(request.num_blocks) + " blocks\n";
  }
  return text;
}

}  // namespace halfmoon::sim
