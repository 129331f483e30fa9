// SPDX-License-Identifier: Apache-2.0
// `halfmoon bench`: prefill and decode speed of a model, against what the machine can do at most.
#include <algorithm>
#include <cstdio>

#include "apps/halfmoon/bench_measure.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "base/json.h"
#include "kernels/probe.h"

namespace halfmoon::app {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::vector<int> prefill = {512};
  std::vector<int> batch = {1, 16};
  std::vector<int> depth = {0};
  int decode = 64;
  int repeats = 5;
  bool json = false;
};

/// What the counted runs of a case did with experts on disk.
json::object ExpertFigures(const model::ExpertMemory& memory, const Measurement& m) {
  const auto rise = [&](uint64_t model::ExpertStats::* counter) {
    return static_cast<double>(m.after.*counter - m.before.*counter);
  };
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  double seconds = 0.0;
  for (const double one : m.seconds) seconds += one;
  const double hits = rise(&model::ExpertStats::hits);
  const double prefetched = rise(&model::ExpertStats::prefetched);
  return {{"budget_bytes", memory.budget_bytes},
          {"slots", memory.num_slots},
          {"experts", memory.num_experts},
          {"method", memory.method},
          {"hit_rate", share(hits, hits + rise(&model::ExpertStats::misses))},
          {"foretold_came_true", share(rise(&model::ExpertStats::predicted_needed),
                                       rise(&model::ExpertStats::predicted))},
          {"prefetched", prefetched},
          {"prefetched_used", share(rise(&model::ExpertStats::prefetched_used), prefetched)},
          {"read_bytes_per_s", share(rise(&model::ExpertStats::bytes_read), seconds)},
          {"wait_share", share(rise(&model::ExpertStats::wait_us) * 1e-6, seconds)},
          {"pack_share", share(rise(&model::ExpertStats::pack_us) * 1e-6, seconds)}};
}

void Print(const BenchOptions& options, const Runtime& runtime, const Measurement& m,
           double limit_tokens_per_s) {
  const double rate = m.tokens / m.median();
  const double spread = (m.seconds.back() - m.seconds.front()) / m.median();
  const double share = rate / limit_tokens_per_s;
  const model::ExpertMemory* experts = runtime.model->expert_memory();
  if (options.json) {
    json::object line{{"case", m.name},
                      {"model", runtime.name},
                      {"version", HALFMOON_VERSION},
                      {"cpu", CpuName()},
                      {"isa", std::string(kernels::IsaName(runtime.model->options().isa))},
                      {"threads", runtime.pool->num_threads()},
                      {"depth", m.depth},
                      {"kv_bytes_per_token", runtime.model->kv_layout().bytes_per_token()},
                      {"tokens_per_s", rate},
                      {"spread", spread},
                      {"limit_tokens_per_s", limit_tokens_per_s},
                      {"share_of_limit", share}};
    if (experts != nullptr) line["expert_memory"] = ExpertFigures(*experts, m);
    if (runtime.model->description().attention.kind == model::AttentionKind::kMla) {
      line["mla_prefill"] = options.model.mla_prefill;
    }
    std::printf("%s\n", json::Serialize(line).c_str());
  } else {
    std::printf("%-22s %9.1f tokens/s  spread %4.1f %%  %5.1f %% of the machine's limit\n",
                m.name.c_str(), rate, 100.0 * spread, 100.0 * share);
    if (experts != nullptr) {
      std::printf("%16s %s\n", "experts", json::Serialize(ExpertFigures(*experts, m)).c_str());
    }
  }
  std::fflush(stdout);
}

int RunBench(const BenchOptions& options) {
  ModelOptions model_options = options.model;
  model_options.max_sequences = std::max(
      model_options.max_sequences, *std::max_element(options.batch.begin(), options.batch.end()));
  Result<std::unique_ptr<Runtime>> loaded =
      LoadRuntime(model_options, /*tokenizer_required=*/false, TerminalProgress());
  if (!loaded.ok()) return Fail(loaded.error());
  Runtime& runtime = **loaded;
  model::Model* model = runtime.model.get();
  const int longest =
      std::max(options.decode, *std::max_element(options.prefill.begin(), options.prefill.end())) +
      *std::max_element(options.depth.begin(), options.depth.end());
  if (longest > model->max_context()) {
    return Fail(Error(ErrorCode::kInvalidArgument, std::to_string(longest) +
                                                       " tokens do not fit the context of " +
                                                       std::to_string(model->max_context())));
  }
  PrintPlan(model_options, runtime);
  const kernels::Stream stream(*runtime.pool, model->options().isa);
  const kernels::MachineLimits limits = kernels::MeasureLimits(stream, {});
  const model::Cost cost = model->CostPerToken();
  std::fprintf(stderr, "limits   read %.1f GB/s, int8 %.0f GOP/s, float32 %.0f GFLOP/s\n",
               limits.read_bytes_per_s * 1e-9, limits.int8_ops_per_s * 1e-9,
               limits.f32_flops_per_s * 1e-9);
  const double compute_s =
      cost.int8_ops / limits.int8_ops_per_s + cost.f32_flops / limits.f32_flops_per_s;
  const auto decode_limit = [&](int depth, int batch) {
    // A step reads each weight it touches once, whoever shares it, and computes every sequence,
    // which reads its own cache.
    const model::AttentionCost attention = model->AttentionCostOf(depth, options.decode);
    const double kv_bytes = batch * attention.kv_bytes / options.decode;
    const double attention_s = attention.f32_flops / options.decode / limits.f32_flops_per_s;
    const double read_s = (model->WeightBytesPerStep(batch) + kv_bytes) / limits.read_bytes_per_s;
    return batch / std::max(read_s, batch * (compute_s + attention_s));
  };
  const auto prefill_limit = [&](int depth, int tokens) {
    const double flops = model->AttentionCostOf(depth, tokens).f32_flops;
    return tokens / (tokens * compute_s + flops / limits.f32_flops_per_s);
  };
  for (const int depth : options.depth) {
    for (const int tokens : options.prefill) {
      const auto prefill = MeasurePrefill(model, depth, tokens, options.repeats);
      if (!prefill.ok()) return Fail(prefill.error());
      Print(options, runtime, *prefill, prefill_limit(depth, tokens));
    }
    for (const int batch : options.batch) {
      const auto decode = MeasureDecode(model, depth, batch, options.decode, options.repeats);
      if (!decode.ok()) return Fail(decode.error());
      Print(options, runtime, *decode, decode_limit(depth, batch));
    }
  }
  if (runtime.draft_source == engine::DraftSource::kNone) return kExitOk;
  const Result<GuessingMeasurement> measured =
      MeasureGuessing(model_options, options.decode, options.repeats, &runtime);
  if (!measured.ok()) return Fail(measured.error());
  // Both against the limit of steps of one token, which guesses are there to pass.
  Print(options, runtime, measured->plain, decode_limit(0, 1));
  Print(options, runtime, measured->guessing, decode_limit(0, 1));
  std::fprintf(stderr, "guesses  %llu checked, %llu came true\n",
               static_cast<unsigned long long>(measured->stats.draft_tokens),
               static_cast<unsigned long long>(measured->stats.accepted_draft_tokens));
  return kExitOk;
}

}  // namespace

void AddBenchCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app->add_subcommand(
      "bench", "Measure prefill and decode, with the share of the machine's limits");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation, "none");
  command->add_option("-p,--prefill", options->prefill, "Prompt lengths")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--decode-batch", options->batch, "Sequences decoded together")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("-n,--decode", options->decode, "Tokens decoded per sequence")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command
      ->add_option("-d,--depth", options->depth,
                   "Tokens already in the KV cache; the limits count reading and attending to them")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("-r,--repeats", options->repeats, "Counted runs of each; the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON line per case");
  command->callback([options, action] { *action = [options] { return RunBench(*options); }; });
}

}  // namespace halfmoon::app
