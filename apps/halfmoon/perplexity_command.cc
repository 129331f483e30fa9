// SPDX-License-Identifier: Apache-2.0
// `halfmoon perplexity`: how well a model predicts a text.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "apps/halfmoon/text_perplexity.h"
#include "base/json.h"

namespace halfmoon::app {
namespace {

struct PerplexityOptions {
  ModelOptions model;
  TextPerplexityOptions text;
  std::string file;
  bool json = false;
};

void Print(const PerplexityOptions& options, const Runtime& runtime, const TextPerplexity& p) {
  if (options.json) {
    const json::object line{{"model", runtime.name},
                            {"file", options.file},
                            {"perplexity", p.result.value()},
                            {"standard_error", p.result.value_standard_error()},
                            {"mean_nll", p.result.mean_nll},
                            {"mean_nll_standard_error", p.result.standard_error},
                            {"scored_tokens", p.result.scored_tokens},
                            {"text_tokens", p.text_tokens},
                            {"ctx_size", p.options.window},
                            {"stride", p.options.stride},
                            {"activation", options.model.activation},
                            {"isa", std::string(kernels::IsaName(runtime.model->options().isa))},
                            {"threads", runtime.pool->num_threads()},
                            {"seconds", p.seconds},
                            {"tokens_per_s", p.tokens_per_s()},
                            {"version", HALFMOON_VERSION}};
    std::printf("%s\n", json::Serialize(line).c_str());
    return;
  }
  std::printf("perplexity  %.4f +/- %.4f\n", p.result.value(), p.result.value_standard_error());
  std::printf("%lld of %lld tokens scored in windows of %lld, stride %lld; %.1f tokens/s\n",
              static_cast<long long>(p.result.scored_tokens), static_cast<long long>(p.text_tokens),
              static_cast<long long>(p.options.window), static_cast<long long>(p.options.stride),
              p.tokens_per_s());
}

int RunPerplexity(const PerplexityOptions& options) {
  Result<std::unique_ptr<Runtime>> runtime =
      LoadRuntime(options.model, /*tokenizer_required=*/true, TerminalProgress());
  if (!runtime.ok()) return Fail(runtime.error());
  TextPerplexityOptions text = options.text;
  text.window = options.model.context;
  const Result<TextPerplexity> perplexity =
      ComputeTextPerplexity(runtime->get(), options.file, text);
  if (!perplexity.ok()) return Fail(perplexity.error());
  Print(options, **runtime, *perplexity);
  return kExitOk;
}

}  // namespace

void AddPerplexityCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* command =
      app->add_subcommand("perplexity", "Perplexity of a model on a text, with its standard error");
  AddModelOptions(command, &options->model);
  command->add_option("file", options->file, "Text file, UTF-8")->required();
  AddTextPerplexityOptions(command, &options->text);
  command->add_flag("--json", options->json, "The answer as one JSON line");
  command->footer(std::string(kPerplexityDefinition) +
                  "\nN is -c,--ctx-size (default: 512, or what the model reaches).\n\n"
                  "Example:\n  halfmoon perplexity -m model.gguf -c 512 --stride 256 text.txt");
  command->callback([options, action] { *action = [options] { return RunPerplexity(*options); }; });
}

}  // namespace halfmoon::app
