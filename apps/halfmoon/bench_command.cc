// SPDX-License-Identifier: Apache-2.0
// `halfmoon bench`: the flags, and which of its three ways they choose: the machine, a model, or
// models beside a peer.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "apps/halfmoon/bench_machine.h"
#include "apps/halfmoon/bench_options.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"

namespace halfmoon::app {
namespace {

int BenchMachine(const BenchOptions& options) {
  const Result<kernels::Isa> isa = kernels::ParseIsa(options.model.isa);
  if (!isa.ok()) return Fail(isa.error());
  std::filesystem::path disk_file;
  if (!options.models.empty()) {
    const Result<ModelSource> source = FindModelSource(options.models.front());
    if (!source.ok()) return Fail(source.error());
    disk_file = source->path;
  }
  ThreadPool pool(options.model.threads > 0 ? options.model.threads : DefaultThreadCount());
  const Machine machine = MeasureMachine(&pool, *isa, disk_file);
  if (options.json) {
    std::printf("%s\n", json::Serialize(MachineJson(machine)).c_str());
  } else {
    PrintMachine(stdout, machine);
  }
  return kExitOk;
}

int RunBench(const BenchOptions& given) {
  BenchOptions options = given;
  if (options.machine) return BenchMachine(options);
  if (options.models.empty()) {
    std::fprintf(stderr,
                 "halfmoon bench: -m names the model to measure; --machine measures the machine "
                 "without one\n");
    return kExitUsage;
  }
  if (!options.compare.empty()) return BenchBesidePeer(options);
  if (options.models.size() > 1) {
    std::fprintf(stderr, "halfmoon bench: several models are for --compare only\n");
    return kExitUsage;
  }
  options.model.model = options.models.front();
  return BenchModel(options);
}

void AddCaseOptions(CLI::App* command, BenchOptions* options) {
  command
      ->add_option("--cases", options->cases.names,
                   "Cases by their names: \"prefill 512\", \"decode x16\", \"decode x1 at 4096\", "
                   "\"first token\" (with --compare); default: the usual ones, or those of the "
                   "lists below")
      ->delimiter(',')
      ->group("Cases");
  command->add_option("-p,--prefill", options->cases.prefill, "Prompt lengths (default: 512,4096)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->group("Cases");
  command
      ->add_option("--decode-batch", options->cases.batch,
                   "Sequences decoded together (default: 1,4,16,64)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->group("Cases");
  command
      ->add_option("-d,--depth", options->cases.depth,
                   "Tokens already in the KV cache: every prompt and batch at each of them "
                   "(default: 0, and one sequence at 4096); the limits count reading and attending "
                   "to them")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20))
      ->group("Cases");
  command
      ->add_option("-n,--decode", options->decode_tokens,
                   "Tokens decoded per sequence, in one pass")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str()
      ->group("Cases");
  command
      ->add_option(
          "-r,--repeats", options->passes,
          "Counted passes of each case, fewer where one takes seconds; their median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group("Cases");
}

void AddCompareOptions(CLI::App* command, BenchOptions* options) {
  command
      ->add_option("--compare", options->compare,
                   "Measure beside a peer, in turns: llama.cpp, or llama.cpp:avx2 for both sides "
                   "without AVX-512 and VNNI. Made once, in the cache, from its PyPI source "
                   "distribution (needs python3, a compiler and the network; minutes). -m may be "
                   "given several times")
      ->group("Compare");
  command
      ->add_option("--peer-python", options->peer_python,
                   "A Python that has llama-cpp-python already")
      ->group("Compare");
  command->add_option("--rounds", options->rounds, "Turns of each side in each case")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group("Compare");
  command->add_option("--start-rounds", options->start_rounds, "Starts to the first token")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group("Compare");
  command
      ->add_flag("!--no-priority", options->raise_priority,
                 "Leave the priority of the measured processes as it is; it is raised where that "
                 "is allowed (root)")
      ->group("Compare");
  command
      ->add_option("--markdown", options->markdown,
                   "Write the table to this file too, with machine, commit and limits")
      ->group("Compare");
  command
      ->add_option("--answer-limit", options->answer_limit_s,
                   "Seconds after which a side that has not answered is given up")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group("Compare");
}

}  // namespace

void AddBenchCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app->add_subcommand(
      "bench",
      "Measure the machine, a model with its share of the machine's limits, or a peer beside");
  AddModelOptions(command, &options->model);
  // Here it may be given several times, or be missing.
  const std::string about_model = command->get_option("--model")->get_description();
  command->remove_option(command->get_option("--model"));
  command->add_option("-m,--model", options->models, about_model)->group("Model");
  AddSpeculationOptions(command, &options->model.speculation, "none");
  AddCaseOptions(command, options.get());
  AddCompareOptions(command, options.get());
  command->add_flag("--machine", options->machine,
                    "Measure the machine alone: memory, arithmetic of every instruction set, disk");
  command->add_flag("--json", options->json, "One JSON line per case");
  command->callback([options, action] { *action = [options] { return RunBench(*options); }; });
}

}  // namespace halfmoon::app
