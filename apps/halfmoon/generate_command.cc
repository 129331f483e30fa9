// SPDX-License-Identifier: Apache-2.0
// `halfmoon generate`: prompts in, continuations out, all computed together
// (docs/formats/generate.md).
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "apps/halfmoon/sampling_options.h"
#include "base/json.h"
#include "engine/token_lists.h"

namespace halfmoon::app {
namespace {

struct GenerateOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::vector<std::string> prompts;
  std::string ids;
  bool json = false;
};

struct Output {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;
  std::string text;
  engine::FinishEvent finish;
  int32_t cached_tokens = 0;
};

Result<std::vector<std::vector<int32_t>>> Prompts(const GenerateOptions& options,
                                                  const Runtime& runtime) {
  if (!options.ids.empty()) {
    return engine::ReadTokenLists(options.ids, runtime.model->vocab_size());
  }
  std::vector<std::vector<int32_t>> lists;
  for (const std::string& prompt : options.prompts) {
    HM_ASSIGN(std::vector<int32_t> ids, runtime.tokenizer->Encode(prompt));
    if (ids.empty()) {
      return Error(ErrorCode::kInvalidArgument, "--prompt: an empty text has no tokens");
    }
    lists.push_back(std::move(ids));
  }
  return lists;
}

/// Runs all prompts; as many at once as the engine takes.
Result<std::vector<Output>> Generate(const GenerateOptions& options, const Runtime& runtime,
                                     const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<Output> outputs(prompts.size());
  std::vector<std::unique_ptr<engine::Generation>> running;
  for (size_t i = 0; i < prompts.size(); ++i) {
    outputs[i].prompt_ids = prompts[i];
    engine::GenerationOptions generation = MakeGeneration(runtime, options.sampling, prompts[i]);
    generation.skip_special = false;
    auto started = engine::Generation::Start(runtime.engine.get(), runtime.tokenizer.get(),
                                             std::move(generation));
    if (!started.ok()) return started.error().WithContext("prompt " + std::to_string(i));
    running.push_back(std::move(started).value());
  }
  for (size_t i = 0; i < running.size(); ++i) {
    while (std::optional<engine::GenerationDelta> delta = running[i]->Next()) {
      outputs[i].text += delta->text;
      for (const engine::TokenEvent& token : delta->tokens) outputs[i].ids.push_back(token.id);
      if (delta->finish.has_value()) outputs[i].finish = *delta->finish;
    }
    outputs[i].cached_tokens = running[i]->cached_tokens();
    if (outputs[i].finish.error.has_value()) {
      return outputs[i].finish.error->WithContext("prompt " + std::to_string(i));
    }
  }
  return outputs;
}

json::array IdsToJson(const std::vector<int32_t>& ids) {
  return json::array(ids.begin(), ids.end());
}

void PrintJson(const std::vector<Output>& outputs, const Runtime& runtime, double load_s,
               double total_s) {
  const bool has_text = runtime.tokenizer != nullptr;
  const engine::EngineStats stats = runtime.engine->Stats();
  json::array results;
  size_t prompt_tokens = 0;
  size_t generated_tokens = 0;
  int64_t cached_tokens = 0;
  for (const Output& output : outputs) {
    prompt_tokens += output.prompt_ids.size();
    generated_tokens += output.ids.size();
    cached_tokens += output.cached_tokens;
    results.push_back(
        json::object{{"prompt_ids", IdsToJson(output.prompt_ids)},
                     {"ids", IdsToJson(output.ids)},
                     {"text", has_text ? json::value(output.text) : json::value(nullptr)},
                     {"finish_reason", std::string(FinishName(output.finish.reason))}});
  }
  const json::object document{
      {"results", std::move(results)},
      {"timings",
       {{"load_s", load_s},
        {"generate_s", total_s},
        {"prompt_tokens", prompt_tokens},
        {"cached_tokens", cached_tokens},
        {"generated_tokens", generated_tokens},
        {"steps", stats.steps},
        {"draft_tokens", stats.draft_tokens},
        {"accepted_draft_tokens", stats.accepted_draft_tokens},
        {"generated_tokens_per_s",
         total_s > 0 ? static_cast<double>(generated_tokens) / total_s : 0.0}}}};
  std::printf("%s\n", json::Serialize(document).c_str());
}

int RunGenerate(const GenerateOptions& options) {
  if (options.prompts.empty() == options.ids.empty()) {
    std::fprintf(stderr, "halfmoon generate: give either --prompt or --ids\n");
    return kExitUsage;
  }
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  Result<std::unique_ptr<Runtime>> loaded =
      LoadRuntime(options.model, /*tokenizer_required=*/options.ids.empty(), TerminalProgress());
  if (!loaded.ok()) return Fail(loaded.error());
  Runtime& runtime = **loaded;
  Result<std::vector<std::vector<int32_t>>> prompts = Prompts(options, runtime);
  if (!prompts.ok()) return Fail(prompts.error());
  const Status started =
      StartEngine(options.model, static_cast<int>(prompts->size()) + 1, &runtime);
  if (!started.ok()) return Fail(started.error());
  const TimeUs ready = clock.NowUs();
  Result<std::vector<Output>> outputs = Generate(options, runtime, *prompts);
  if (!outputs.ok()) return Fail(outputs.error());
  const TimeUs done = clock.NowUs();
  if (options.json) {
    PrintJson(*outputs, runtime, static_cast<double>(ready - begin) * 1e-6,
              static_cast<double>(done - ready) * 1e-6);
    return kExitOk;
  }
  for (const Output& output : *outputs) std::printf("%s\n", output.text.c_str());
  return kExitOk;
}

}  // namespace

void AddGenerateCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command =
      app->add_subcommand("generate", "Continue prompts, as text or as JSON with token ids");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation);
  AddKvStoreOptions(command, &options->model.kv_store);
  AddSamplingOptions(command, &options->sampling);
  command->add_option("-p,--prompt", options->prompts,
                      "Text to continue, without a chat template; may be given several times");
  command->add_option("--ids", options->ids,
                      "JSON file with a list of token-id lists instead of --prompt");
  command->add_flag(
      "--json", options->json,
      "Print {\"results\":[{prompt_ids, ids, text, finish_reason}], \"timings\":{..}}, "
      "one result a prompt, in order");
  command->footer(
      "Example:\n  halfmoon generate -m model.gguf --prompt 'The capital of France is' "
      "--max-tokens 16 --json");
  command->callback([options, action] { *action = [options] { return RunGenerate(*options); }; });
}

}  // namespace halfmoon::app
