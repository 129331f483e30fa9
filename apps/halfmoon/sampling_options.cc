// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/sampling_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <random>
#include <utility>

namespace halfmoon::app {

void AddSamplingOptions(CLI::App* command, SamplingOptions* options) {
  auto add = [command](const char* flags, auto& value, const char* help) {
    return command->add_option(flags, value, help)->group("Sampling");
  };
  add("-n,--max-tokens,--predict,--n-predict", options->max_tokens,
      "Most tokens to generate (default: what the context holds)")
      ->check(CLI::NonNegativeNumber);
  add("--temp,--temperature", options->temperature, "0 takes the likeliest token each time")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str();
  add("--top-p", options->top_p, "Keep the likeliest tokens up to this probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->capture_default_str();
  add("--top-k", options->top_k, "Keep this many likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--min-p", options->min_p, "Drop tokens below this share of the likeliest one's probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->capture_default_str();
  add("--repeat-penalty,--repetition-penalty", options->repetition_penalty,
      "Above 1: make tokens that occurred less likely")
      ->check(CLI::Range(0.01f, 100.0f))
      ->capture_default_str();
  add("-s,--seed", options->seed, "Same seed, same output (default: a new one each time)");
  add("--stop", options->stop, "Text that ends the output; may be given several times");
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on past end-of-sequence tokens")
      ->group("Sampling");
}

engine::GenerationOptions MakeGeneration(const Runtime& runtime, const SamplingOptions& options,
                                         std::vector<int32_t> prompt_ids) {
  engine::GenerationOptions generation;
  engine::Request& request = generation.request;
  request.sampling.temperature = options.temperature;
  request.sampling.top_p = options.top_p;
  request.sampling.top_k = options.top_k;
  request.sampling.min_p = options.min_p;
  request.sampling.repetition_penalty = options.repetition_penalty;
  request.sampling.seed = options.seed.has_value() ? *options.seed : std::random_device()();
  const auto room = runtime.engine->max_request_tokens() - static_cast<int64_t>(prompt_ids.size());
  request.max_tokens = options.max_tokens > 0 ? options.max_tokens
                                              : static_cast<int32_t>(std::max<int64_t>(room, 1));
  if (!options.ignore_eos) {
    request.stop_ids = runtime.model->description().eos_ids;
    if (runtime.tokenizer != nullptr) {
      for (const int32_t id : runtime.tokenizer->eos_ids()) {
        if (std::find(request.stop_ids.begin(), request.stop_ids.end(), id) ==
            request.stop_ids.end()) {
          request.stop_ids.push_back(id);
        }
      }
    }
  }
  request.prompt_ids = std::move(prompt_ids);
  generation.stop = options.stop;
  return generation;
}

std::string_view FinishName(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStop:
      return "stop";
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kCancelled:
      return "cancelled";
    case engine::FinishReason::kError:
      return "error";
  }
  return "error";
}

}  // namespace halfmoon::app
