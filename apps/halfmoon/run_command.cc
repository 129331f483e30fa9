// SPDX-License-Identifier: Apache-2.0
// `halfmoon run`: one prompt, one answer.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/conversation.h"
#include "apps/halfmoon/interrupt.h"

namespace halfmoon::app {
namespace {

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::vector<std::string> words;
  std::string system;
  bool verbose = false;
};

int RunRun(const RunOptions& options) {
  std::string prompt;
  for (const std::string& word : options.words) prompt += (prompt.empty() ? "" : " ") + word;
  if (prompt.empty() && ::isatty(STDIN_FILENO) == 0) {
    prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (prompt.empty()) {
    std::fprintf(stderr, "halfmoon run: no prompt; give it as an argument or on standard input\n");
    return kExitUsage;
  }
  Result<std::unique_ptr<Runtime>> loaded =
      LoadRuntime(options.model, /*tokenizer_required=*/true, TerminalProgress());
  if (!loaded.ok()) return Fail(loaded.error());
  Runtime& runtime = **loaded;
  const Status started = StartEngine(options.model, 1, &runtime);
  if (!started.ok()) return Fail(started.error());
  options.verbose ? PrintPlan(options.model, runtime) : PrintLicense(runtime);
  WatchInterrupts();
  Conversation conversation(&runtime, &options.sampling, options.system);
  Result<AnswerStats> stats = conversation.Ask(prompt, InterruptFlag());
  if (!stats.ok()) return Fail(stats.error());
  std::fprintf(stderr, "%s\n", Summary(*stats).c_str());
  return stats->reason == engine::FinishReason::kCancelled ? kExitInterrupted : kExitOk;
}

}  // namespace

void AddRunCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app->add_subcommand("run", "Answer one prompt");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation);
  AddKvStoreOptions(command, &options->model.kv_store);
  AddSamplingOptions(command, &options->sampling);
  command->add_option("prompt", options->words, "What to ask; read from standard input if absent");
  command->add_option("--system", options->system, "System prompt");
  command->add_flag("-v,--verbose", options->verbose, "Print what was found and decided");
  command->footer("Example:\n  halfmoon run -m model.gguf 'Why is the sky blue?'");
  command->callback([options, action] { *action = [options] { return RunRun(*options); }; });
}

}  // namespace halfmoon::app
