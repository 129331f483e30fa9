// SPDX-License-Identifier: Apache-2.0
// `halfmoon bench` of one model alone: each case, with its share of what the machine allows.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "apps/halfmoon/bench_limits.h"
#include "apps/halfmoon/bench_machine.h"
#include "apps/halfmoon/bench_measure.h"
#include "apps/halfmoon/bench_options.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/embedded_files.h"
#include "apps/halfmoon/runtime.h"
#include "base/json.h"
#include "base/topology.h"

namespace halfmoon::app {
namespace {

// Long passes are not repeated for ever: no further one begins then.
constexpr double kCaseSeconds = 10.0;

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
                      {"commit", BuildCommit()},
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

/// Cases of the usual list may be too long for a model; those that were asked for may not.
Result<std::vector<BenchCase>> FittingCases(const BenchOptions& options, int max_context) {
  HM_ASSIGN(const std::vector<BenchCase> cases, ChooseCases(options.cases, /*first_token=*/false));
  return CasesThatFit(
      std::move(cases), options.cases.AsksForSome(), options.decode_tokens, max_context,
      [](const std::string& why) { std::fprintf(stderr, "left out: %s\n", why.c_str()); });
}

Status MeasureCases(const BenchOptions& options, const Runtime& runtime,
                    const kernels::MachineLimits& limits) {
  model::Model* model = runtime.model.get();
  HM_ASSIGN(const std::vector<BenchCase> cases, FittingCases(options, model->max_context()));
  for (const BenchCase& which : cases) {
    HM_ASSIGN(PreparedCase prepared, PreparedCase::Make(model, which, options.decode_tokens));
    HM_ASSIGN(const Measurement measured,
              MeasureCase({.count = options.passes, .stop_after_s = kCaseSeconds}, &prepared));
    Print(options, runtime, measured,
          LimitTokensPerSecond(CostOfPass(*model, which, options.decode_tokens), limits));
  }
  return {};
}

Status MeasureGuesses(const BenchOptions& options, const kernels::MachineLimits& limits,
                      Runtime* runtime) {
  if (runtime->draft_source == engine::DraftSource::kNone) return {};
  HM_ASSIGN(const GuessingMeasurement measured,
            MeasureGuessing(options.model, options.decode_tokens, options.passes, runtime));
  // Both against the limit of steps of one token, which guesses are there to pass.
  const BenchCase one{.kind = BenchCase::Kind::kDecode};
  const double limit =
      LimitTokensPerSecond(CostOfPass(*runtime->model, one, options.decode_tokens), limits);
  Print(options, *runtime, measured.plain, limit);
  Print(options, *runtime, measured.guessing, limit);
  std::fprintf(stderr, "guesses  %llu checked, %llu came true\n",
               static_cast<unsigned long long>(measured.stats.draft_tokens),
               static_cast<unsigned long long>(measured.stats.accepted_draft_tokens));
  return {};
}

/// What loading took, now and once more, and what memory the model holds after its cases.
struct LoadFigures {
  double load_s = 0;
  double again_s = 0;
  double resident_bytes = 0;
  double file_bytes = 0;
};

void PrintLoad(const BenchOptions& options, const std::string& model, const LoadFigures& f) {
  const double over_file = f.resident_bytes / f.file_bytes;
  if (options.json) {
    std::printf("%s\n", json::Serialize(json::object{{"case", "load"},
                                                     {"model", model},
                                                     {"load_s", f.load_s},
                                                     {"load_again_s", f.again_s},
                                                     {"resident_bytes", f.resident_bytes},
                                                     {"file_bytes", f.file_bytes},
                                                     {"resident_over_file", over_file}})
                            .c_str());
  } else {
    std::printf("%-22s %9.2f s, again %.2f s\n", "load", f.load_s, f.again_s);
    std::printf("%-22s %9.2f GB, %.2f times the file\n", "resident memory", f.resident_bytes * 1e-9,
                over_file);
  }
  std::fflush(stdout);
}

/// A runtime, and the seconds that it took.
Result<std::unique_ptr<Runtime>> TimeLoad(const ModelOptions& options, const LoadProgress& progress,
                                          double* seconds) {
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  HM_ASSIGN(std::unique_ptr<Runtime> runtime,
            LoadRuntime(options, /*tokenizer_required=*/false, progress));
  *seconds = static_cast<double>(clock.NowUs() - begin) * 1e-6;
  return runtime;
}

Status Bench(const BenchOptions& options) {
  LoadFigures load;
  HM_ASSIGN(std::unique_ptr<Runtime> runtime,
            TimeLoad(options.model, TerminalProgress(), &load.load_s));
  runtime->weight_cache.WaitSaved();
  // What does not fit is said before minutes of measuring.
  HM_TRY(FittingCases(options, runtime->model->max_context()));
  PrintPlan(options.model, *runtime);
  const std::vector<std::filesystem::path> files = runtime->checkpoint->files();
  const Machine machine =
      MeasureMachine(runtime->pool.get(), runtime->model->options().isa,
                     files.empty() ? runtime->checkpoint->path() : files.front());
  PrintMachine(stderr, machine);
  if (options.json) std::printf("%s\n", json::Serialize(MachineJson(machine)).c_str());
  HM_TRY(MeasureCases(options, *runtime, LimitsInUse(machine)));
  load.resident_bytes = static_cast<double>(ResidentBytes(::getpid()));
  load.file_bytes = static_cast<double>(runtime->checkpoint->size_bytes());
  HM_TRY(MeasureGuesses(options, LimitsInUse(machine), runtime.get()));
  const std::string name = runtime->name;
  runtime.reset();
  HM_TRY(TimeLoad(options.model, {}, &load.again_s));
  PrintLoad(options, name, load);
  return {};
}

}  // namespace

int BenchModel(const BenchOptions& options) {
  BenchOptions one = options;
  const Result<int> sequences = MostSequences(options.cases);
  if (!sequences.ok()) return Fail(sequences.error());
  one.model.max_sequences = std::max(one.model.max_sequences, *sequences);
  const Status done = Bench(one);
  return done.ok() ? static_cast<int>(kExitOk) : Fail(done.error());
}

}  // namespace halfmoon::app
