// SPDX-License-Identifier: Apache-2.0
// Perplexity of a model on a text file: what the commands `perplexity` and `quantize` share.
#pragma once

#include <cstdint>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "apps/halfmoon/runtime.h"
#include "base/result.h"
#include "model/perplexity.h"

namespace halfmoon::app {

struct TextPerplexityOptions {
  int window = 0;            ///< 0: 512, or what the model reaches
  int stride = 0;            ///< 0: half a window
  int64_t limit_tokens = 0;  ///< 0: the whole text
};

struct TextPerplexity {
  model::Perplexity result;
  model::PerplexityOptions options;  ///< as used
  int64_t text_tokens = 0;
  double seconds = 0.0;

  double tokens_per_s() const {
    return seconds > 0.0 ? static_cast<double>(result.computed_tokens) / seconds : 0.0;
  }
};

/// Adds --stride and --limit; the window is a flag of the command's own.
void AddTextPerplexityOptions(CLI::App* command, TextPerplexityOptions* options);

/// Tokenises `file` as plain text, with the tokens the tokenizer puts around it, and scores it.
/// Progress goes to standard error. Errors: kInvalidArgument (not UTF-8, too short), kNotFound,
/// kIo.
Result<TextPerplexity> ComputeTextPerplexity(Runtime* runtime, const std::string& file,
                                             const TextPerplexityOptions& options);

/// What perplexity is here, for help texts.
extern const char* const kPerplexityDefinition;

}  // namespace halfmoon::app
