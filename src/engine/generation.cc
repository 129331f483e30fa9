// SPDX-License-Identifier: Apache-2.0
#include "engine/generation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/stop_matcher.h"
#include "text/stream_decoder.h"

namespace halfmoon::engine {
namespace {

class GenerationImpl final : public Generation {
 public:
  GenerationImpl(std::unique_ptr<RequestHandle> handle, const text::Tokenizer* tokenizer,
                 GenerationOptions options)
      : prompt_tokens_(static_cast<int32_t>(options.request.prompt_ids.size())),
        stop_ids_(std::move(options.request.stop_ids)),
        include_stop_(options.include_stop),
        handle_(std::move(handle)),
        matcher_(std::move(options.stop), options.include_stop) {
    if (tokenizer != nullptr) {
      decoder_.emplace(*tokenizer, text::DecodeOptions{.skip_special = options.skip_special});
    }
  }

  std::optional<GenerationDelta> TryNext() override {
    std::optional<GenerationDelta> delta;
    while (!finished_) {
      std::optional<Event> event = handle_->TryNext();
      if (!event.has_value()) break;
      if (!delta.has_value()) delta.emplace();
      Take(std::move(*event), &*delta);
    }
    return delta;
  }

  std::optional<GenerationDelta> Next() override {
    if (finished_) return std::nullopt;
    std::optional<Event> event = handle_->Next();
    if (!event.has_value()) return std::nullopt;
    GenerationDelta delta;
    Take(std::move(*event), &delta);
    while (!finished_) {
      event = handle_->TryNext();
      if (!event.has_value()) break;
      Take(std::move(*event), &delta);
    }
    return delta;
  }

  void SetNotify(std::function<void()> notify) override { handle_->SetNotify(std::move(notify)); }
  void Cancel() override { handle_->Cancel(); }
  int32_t prompt_tokens() const override { return prompt_tokens_; }
  int32_t completion_tokens() const override { return completion_tokens_; }
  int32_t cached_tokens() const override { return cached_tokens_; }

 private:
  void Take(Event event, GenerationDelta* delta) {
    if (auto* token = std::get_if<TokenEvent>(&event)) {
      TakeToken(std::move(*token), delta);
    } else if (auto* prompt = std::get_if<PromptEvent>(&event)) {
      cached_tokens_ = prompt->cached_tokens;
      delta->prompt = std::move(*prompt);
    } else if (auto* progress = std::get_if<ProgressEvent>(&event)) {
      delta->progress = *progress;
    } else {
      if (decoder_.has_value()) delta->text += matcher_.Push(decoder_->Finish());
      delta->text += matcher_.Finish();
      Finish(std::move(std::get<FinishEvent>(event)), delta);
    }
  }

  void TakeToken(TokenEvent token, GenerationDelta* delta) {
    ++completion_tokens_;
    // A stop id ends the output as a stop string does: it is no part of it unless asked for.
    const bool is_stop = std::ranges::find(stop_ids_, token.id) != stop_ids_.end();
    if (decoder_.has_value() && (!is_stop || include_stop_)) {
      delta->text += matcher_.Push(decoder_->Push(token.id));
    }
    delta->tokens.push_back(std::move(token));
    if (matcher_.matched()) {
      // The engine knows nothing of text; for it this is a request that is no longer wanted.
      handle_->Cancel();
      Finish({.reason = FinishReason::kStop}, delta);
    }
  }

  void Finish(FinishEvent finish, GenerationDelta* delta) {
    finished_ = true;
    delta->finish = std::move(finish);
  }

  const int32_t prompt_tokens_;
  const std::vector<int32_t> stop_ids_;
  const bool include_stop_;
  const std::unique_ptr<RequestHandle> handle_;
  std::optional<text::StreamDecoder> decoder_;  // none without a tokenizer: ids only
  StopMatcher matcher_;
  int32_t completion_tokens_ = 0;
  int32_t cached_tokens_ = 0;
  bool finished_ = false;
};

}  // namespace

Result<std::unique_ptr<Generation>> Generation::Start(Engine* engine,
                                                      const text::Tokenizer* tokenizer,
                                                      GenerationOptions options) {
  for (const std::string& stop : options.stop) {
    if (stop.empty()) return Error(ErrorCode::kInvalidArgument, "a stop string is empty");
  }
  if (tokenizer == nullptr && !options.stop.empty()) {
    return Error(ErrorCode::kInvalidArgument,
                 "stop strings need a tokenizer, and this checkpoint has none");
  }
  // The request goes to the engine, the rest is needed here.
  Request request = options.request;
  HM_ASSIGN(std::unique_ptr<RequestHandle> handle, engine->Submit(std::move(request)));
  return std::unique_ptr<Generation>(
      std::make_unique<GenerationImpl>(std::move(handle), tokenizer, std::move(options)));
}

}  // namespace halfmoon::engine
