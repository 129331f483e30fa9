// SPDX-License-Identifier: Apache-2.0
// `halfmoon sim`: replays a trace of requests over a cluster in numbers, under the conductor that
// `halfmoon conductor` runs.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/embedded_files.h"
#include "base/file.h"
#include "sim/cost_model.h"
#include "sim/fuzz.h"
#include "sim/report.h"
#include "sim/run_options.h"
#include "sim/trace.h"

namespace halfmoon::app {
namespace {

constexpr std::string_view kPaperCosts = "llama3-70b-8xa800";

struct SimFlags {
  std::string trace;
  std::string costs = std::string(kPaperCosts);
  std::string json_path;
  std::string html_path;
  std::vector<std::string> sweeps;
  uint64_t fuzz_cases = 0;                    // instead of a trace
  std::map<std::string, std::string> values;  // by option, of those given
};

Result<sim::CostModel> LoadCosts(const std::string& name) {
  if (name == kPaperCosts) return sim::ParseCostModel(EmbeddedPaperCosts());
  Result<std::string> text = ReadTextFile(name, size_t{1} << 20);
  if (!text.ok()) {
    return text.error().WithContext("--costs (a file, or " + std::string(kPaperCosts) + ")");
  }
  return sim::ParseCostModel(*text).WithContext(name);
}

Status WriteFile(const std::string& path, const std::string& text) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"),
                                                             &std::fclose);
  if (file == nullptr || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    return Error(ErrorCode::kIo, path + ": cannot write");
  }
  return {};
}

std::string LabelOf(const sim::Assignment& assignment, const sim::SimOptions& options) {
  std::string label;
  for (const auto& [name, value] : assignment) {
    label += (label.empty() ? "" : " ") + name + "=" + value;
  }
  return label.empty() ? std::string(options.policy.name) : label;
}

Status Simulate(const SimFlags& flags) {
  if (flags.trace.empty()) {
    return Error(ErrorCode::kInvalidArgument, "--trace FILE is missing (or --fuzz CASES)");
  }
  HM_ASSIGN(const sim::CostModel costs, LoadCosts(flags.costs));
  HM_ASSIGN(const std::vector<sim::Assignment> assignments, sim::ExpandSweeps(flags.sweeps));
  std::vector<sim::Run> runs;
  for (const sim::Assignment& assignment : assignments) {
    sim::Run run;
    for (const auto& [name, value] : flags.values) {
      HM_TRY(sim::SetOption(name, value, &run.options));
    }
    for (const auto& [name, value] : assignment) {
      HM_TRY(sim::SetOption(name, value, &run.options).WithContext("--sweep"));
    }
    HM_TRY(sim::CheckOptions(run.options));
    run.label = LabelOf(assignment, run.options);
    runs.push_back(std::move(run));
  }
  HM_ASSIGN(const sim::Trace trace, sim::ReadTrace(flags.trace));
  std::fprintf(stderr, "%zu requests over %.0f s, costs of %s\n", trace.requests.size(),
               trace.duration_s(), costs.name.c_str());
  for (sim::Run& run : runs) {
    sim::Simulator simulator(run.options, costs, trace);
    run.result = simulator.Run();
    if (!simulator.violation().empty()) {
      return Error(ErrorCode::kInternal, run.label + ": " + simulator.violation());
    }
    run.summary = sim::Summarize(run.result, run.options.limits);
    std::fprintf(stderr, "%s: done\n", run.label.c_str());
  }
  std::fputs(sim::FormatTable(runs).c_str(), stdout);
  if (!flags.json_path.empty()) {
    HM_TRY(WriteFile(flags.json_path, json::Serialize(sim::ReportJson(runs, costs.name)) + "\n"));
  }
  if (!flags.html_path.empty()) {
    HM_TRY(WriteFile(flags.html_path, sim::FormatHtml(runs, "halfmoon sim: " + flags.trace)));
  }
  return {};
}

Status Fuzz(const SimFlags& flags) {
  sim::SimOptions options;
  for (const auto& [name, value] : flags.values) {
    if (name != "seed") {
      return Error(ErrorCode::kInvalidArgument,
                   "--fuzz makes clusters itself; only --seed goes with it, not --" + name);
    }
    HM_TRY(sim::SetOption(name, value, &options));
  }
  for (uint64_t i = 0; i < flags.fuzz_cases; ++i) {
    const uint64_t seed = options.seed + i;
    const sim::FuzzCase fuzz_case = sim::MakeFuzzCase(seed);
    const std::string violation = sim::RunFuzzCase(fuzz_case);
    if (violation.empty()) {
      if ((i + 1) % 1000 == 0)
        std::fprintf(stderr, "%llu cases\n", static_cast<unsigned long long>(i + 1));
      continue;
    }
    return Error(ErrorCode::kInternal, "seed " + std::to_string(seed) + ": " + violation + "\n" +
                                           sim::Describe(sim::Shrink(fuzz_case)));
  }
  std::printf("%llu cases from seed %llu on, nothing found\n",
              static_cast<unsigned long long>(flags.fuzz_cases),
              static_cast<unsigned long long>(options.seed));
  return {};
}

}  // namespace

void AddSimCommand(CLI::App* app, Action* action) {
  CLI::App* command = app->add_subcommand(
      "sim",
      "Replay a trace of requests over a simulated cluster, under the conductor's own code.\n"
      "Nodes exist in numbers only: how long prefill, decode and copies take (--costs).");
  auto flags = std::make_shared<SimFlags>();
  command->add_option("--trace", flags->trace,
                      "JSON lines with timestamp (ms), input_length, output_length and, for what "
                      "prompts share, hash_ids; .gz too");
  command
      ->add_option("--costs", flags->costs,
                   "What nodes are: a file (docs/formats/sim_costs.md), or llama3-70b-8xa800")
      ->capture_default_str();
  for (const sim::OptionName& option : sim::OptionNames()) {
    const std::string name(option.name);
    command->add_option_function<std::string>(
        "--" + name, [flags, name](const std::string& value) { flags->values[name] = value; },
        std::string(option.help));
  }
  command->add_option("--sweep", flags->sweeps,
                      "Run every combination: --sweep rate=1,2 --sweep policy=local,global");
  command->add_option("--json", flags->json_path, "Write summaries and loads to this file");
  command->add_option("--report", flags->html_path, "Write a page with pictures to this file");
  command->add_option("--fuzz", flags->fuzz_cases,
                      "Instead of a trace: so many random clusters with failures, from --seed on; "
                      "stops at the first that loses a request or memory, made small");
  command->footer(
      "Try:\n"
      "  halfmoon sim --trace conversation_trace.jsonl.gz --prefill 8 --decode 8\n"
      "  halfmoon sim --trace conversation_trace.jsonl.gz --prefill 8 --decode 8 --sweep "
      "policy=random,load,local,global\n"
      "  halfmoon sim --trace conversation_trace.jsonl.gz --coupled 16 --report coupled.html");
  command->callback([flags, action] {
    *action = [flags] {
      const Status status = flags->fuzz_cases > 0 ? Fuzz(*flags) : Simulate(*flags);
      if (status.ok()) return kExitOk;
      std::fprintf(stderr, "halfmoon sim: %s\n", status.error().message().c_str());
      return status.error().code() == ErrorCode::kInvalidArgument ? kExitUsage : kExitFailure;
    };
  });
}

}  // namespace halfmoon::app
