// SPDX-License-Identifier: Apache-2.0
// A conversation on the terminal: messages, the template that turns them into a prompt, and the
// answer as it comes.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "apps/halfmoon/runtime.h"
#include "apps/halfmoon/sampling_options.h"
#include "base/json.h"

namespace halfmoon::app {

/// How an answer went.
struct AnswerStats {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t generated_tokens = 0;
  double first_token_s = 0.0;
  double total_s = 0.0;
  engine::FinishReason reason = engine::FinishReason::kStop;
};

/// One thread at a time.
class Conversation {
 public:
  /// runtime and sampling outlive the conversation.
  Conversation(Runtime* runtime, const SamplingOptions* sampling, std::string system_prompt);

  /// Adds a user message, streams the answer to stdout, and adds it to the history. `interrupted`
  /// ends the answer early when it turns true.
  Result<AnswerStats> Ask(std::string_view message, const std::atomic<bool>& interrupted);

  /// Forgets everything but the system prompt.
  void Reset();

 private:
  void Add(std::string_view role, std::string_view content);
  /// The prompt: rendered by the model's template, or the bare last message where it has none.
  Result<std::vector<int32_t>> Prompt() const;

  Runtime* runtime_;
  const SamplingOptions* sampling_;
  std::string system_prompt_;
  json::array messages_;
};

/// "12 tokens in 0.8 s (15.0 tokens/s), prompt 31 tokens (20 cached), first token after 0.1 s"
std::string Summary(const AnswerStats& stats);

}  // namespace halfmoon::app
