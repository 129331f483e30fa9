// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/conversation.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace halfmoon::app {

Conversation::Conversation(Runtime* runtime, const SamplingOptions* sampling,
                           std::string system_prompt)
    : runtime_(runtime), sampling_(sampling), system_prompt_(std::move(system_prompt)) {
  Reset();
}

void Conversation::Reset() {
  messages_.clear();
  if (!system_prompt_.empty()) Add("system", system_prompt_);
}

void Conversation::Add(std::string_view role, std::string_view content) {
  messages_.push_back(json::object{{"role", role}, {"content", content}});
}

Result<std::vector<int32_t>> Conversation::Prompt() const {
  const text::Tokenizer& tokenizer = *runtime_->tokenizer;
  if (!runtime_->chat_template.has_value()) {
    return tokenizer.Encode(std::string_view(messages_.back().at("content").as_string()));
  }
  const std::string messages = json::Serialize(messages_);
  HM_ASSIGN(const std::string prompt,
            runtime_->chat_template->Render({.messages_json = messages,
                                             .add_generation_prompt = true,
                                             .bos_token = tokenizer.bos_token(),
                                             .eos_token = tokenizer.eos_token(),
                                             .now_unix_s = UnixTimeSeconds()}));
  // The template prints what the model expects at the start.
  return tokenizer.Encode(prompt, {.add_special_tokens = false});
}

Result<AnswerStats> Conversation::Ask(std::string_view message,
                                      const std::atomic<bool>& interrupted) {
  const MonotonicClock clock;
  const TimeUs begin = clock.NowUs();
  Add("user", message);
  auto start = [&]() -> Result<std::unique_ptr<engine::Generation>> {
    HM_ASSIGN(std::vector<int32_t> prompt, Prompt());
    return engine::Generation::Start(runtime_->engine.get(), runtime_->tokenizer.get(),
                                     MakeGeneration(*runtime_, *sampling_, std::move(prompt)));
  };
  Result<std::unique_ptr<engine::Generation>> generation = start();
  if (!generation.ok()) {
    messages_.pop_back();
    return generation.error();
  }

  AnswerStats stats;
  std::string answer;
  std::optional<Error> error;
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  bool progress_shown = false;
  while (std::optional<engine::GenerationDelta> delta = (*generation)->Next()) {
    if (interrupted.load()) (*generation)->Cancel();
    if (delta->progress.has_value() && terminal) {
      std::fprintf(stderr, "\rreading prompt: %d of %d tokens", delta->progress->computed_tokens,
                   delta->progress->prompt_tokens);
      progress_shown = true;
    }
    if (!delta->tokens.empty() && stats.first_token_s == 0.0) {
      stats.first_token_s = static_cast<double>(clock.NowUs() - begin) * 1e-6;
      if (progress_shown) std::fprintf(stderr, "\r\033[K");
    }
    if (!delta->text.empty()) {
      answer += delta->text;
      std::fwrite(delta->text.data(), 1, delta->text.size(), stdout);
      std::fflush(stdout);
    }
    if (delta->finish.has_value()) {
      stats.reason = delta->finish->reason;
      error = delta->finish->error;
    }
  }
  stats.total_s = static_cast<double>(clock.NowUs() - begin) * 1e-6;
  stats.prompt_tokens = (*generation)->prompt_tokens();
  stats.cached_tokens = (*generation)->cached_tokens();
  stats.generated_tokens = (*generation)->completion_tokens();
  std::fputc('\n', stdout);
  std::fflush(stdout);
  if (error.has_value()) return *error;
  Add("assistant", answer);
  return stats;
}

std::string Summary(const AnswerStats& stats) {
  const double decode_s = stats.total_s - stats.first_token_s;
  const double rate =
      stats.generated_tokens > 1 && decode_s > 0 ? (stats.generated_tokens - 1) / decode_s : 0.0;
  char text[256];
  std::snprintf(text, sizeof(text),
                "%d tokens in %.2f s (%.1f tokens/s); prompt %d tokens, %d from cache; first token "
                "after %.2f s",
                stats.generated_tokens, stats.total_s, rate, stats.prompt_tokens,
                stats.cached_tokens, stats.first_token_s);
  return text;
}

}  // namespace halfmoon::app
