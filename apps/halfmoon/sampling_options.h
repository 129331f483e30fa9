// SPDX-License-Identifier: Apache-2.0
// Flags of commands that generate, in the spellings of llama.cpp and vLLM both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/halfmoon/cli_app.h"
#include "apps/halfmoon/runtime.h"
#include "engine/generation.h"

namespace halfmoon::app {

struct SamplingOptions {
  int max_tokens = 0;  ///< 0: as many as the context holds
  float temperature = 0.0f;
  float top_p = 1.0f;
  int top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

/// Adds the flags; `options` holds the command's defaults.
void AddSamplingOptions(CLI::App* command, SamplingOptions* options);

/// A request for `prompt_ids` under these options. Without a seed each call draws one.
engine::GenerationOptions MakeGeneration(const Runtime& runtime, const SamplingOptions& options,
                                         std::vector<int32_t> prompt_ids);

/// "stop", "length", "cancelled" or "error".
std::string_view FinishName(engine::FinishReason reason);

}  // namespace halfmoon::app
