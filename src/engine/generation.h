// SPDX-License-Identifier: Apache-2.0
// Text in, text out on top of an Engine: detokenising, stop strings, usage. Shared by the command
// line and the server.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "text/tokenizer.h"

namespace halfmoon::engine {

struct GenerationOptions {
  Request request;  ///< prompt ids, sampling, limits
  std::vector<std::string>
      stop;  ///< text that ends the output and is not part of it; also across token borders
  bool include_stop = false;  ///< keep the stop text in the output
  bool skip_special = true;   ///< leave special tokens out of the text
};

/// A piece of output: text that is final (no stop string can begin in it any more) and the tokens
/// that came with it.
struct GenerationDelta {
  std::string text;
  std::vector<TokenEvent> tokens;
  std::optional<PromptEvent> prompt;      ///< when the prompt was finished since the last delta
  std::optional<ProgressEvent> progress;  ///< newest prefill progress since the last delta
  std::optional<FinishEvent> finish;      ///< the end; nothing follows
};

/// One running generation. Dropping it cancels. One consumer thread at a time.
class Generation {
 public:
  /// engine and tokenizer outlive the generation. Without a tokenizer (nullptr) the deltas carry
  /// tokens and no text, and stop strings are kInvalidArgument. Errors: those of Engine::Submit;
  /// kInvalidArgument for an empty stop string.
  static Result<std::unique_ptr<Generation>> Start(Engine* engine, const text::Tokenizer* tokenizer,
                                                   GenerationOptions options);
  virtual ~Generation() = default;
  /// What has arrived since the last call, without waiting; nullopt when nothing has.
  virtual std::optional<GenerationDelta> TryNext() = 0;
  /// Waits for something; nullopt after the finish has been taken.
  virtual std::optional<GenerationDelta> Next() = 0;
  virtual void SetNotify(std::function<void()> notify) = 0;
  virtual void Cancel() = 0;
  /// So far.
  virtual int32_t prompt_tokens() const = 0;
  virtual int32_t completion_tokens() const = 0;
  virtual int32_t cached_tokens() const = 0;
};

}  // namespace halfmoon::engine
