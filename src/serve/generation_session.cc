// SPDX-License-Identifier: Apache-2.0
#include "serve/generation_session.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "net/sse.h"

namespace halfmoon::serve {

struct GenerationSession::Choice {
  std::unique_ptr<engine::Generation> generation;
  std::string echo_text;
  bool echo_logprobs = false;
  std::shared_ptr<GrammarState> grammar;
  std::vector<int32_t> prompt_ids;  // kept only where they are returned

  Piece collected;  // whole answers: everything so far
  bool begun = false;
  bool finished = false;
  bool stopped = false;  // finished by the model or a stop string, not by a limit
  TimeUs last_token_us = 0;
};

std::optional<ApiError> GenerationSession::Start(const Backend& backend, GenerationPlan plan,
                                                 std::shared_ptr<Exchange> exchange,
                                                 std::function<void()> wake, Metrics* metrics,
                                                 const Clock* clock, TimeUs arrival_us,
                                                 std::unique_ptr<GenerationSession>& session) {
  std::vector<ChoicePlan> plans = std::move(plan.choices);
  std::unique_ptr<GenerationSession> made(new GenerationSession(
      std::move(plan), std::move(exchange), std::move(wake), metrics, clock, arrival_us));
  for (ChoicePlan& choice_plan : plans) {
    Choice choice;
    choice.echo_text = std::move(choice_plan.echo_text);
    choice.echo_logprobs = choice_plan.echo_logprobs;
    choice.grammar = std::move(choice_plan.grammar);
    if (made->format_->context().return_token_ids) {
      choice.prompt_ids = choice_plan.options.request.prompt_ids;
    }
    Result<std::unique_ptr<engine::Generation>> generation = engine::Generation::Start(
        &backend.engine(), &backend.tokenizer(), std::move(choice_plan.options));
    if (!generation.ok()) {
      // Those already queued are cancelled as `made` goes.
      ApiError error = FromError(generation.error());
      if (generation.error().code() == ErrorCode::kResourceExhausted) {
        error.retry_after_s = metrics->RetryAfterSeconds(backend.engine().Stats());
      }
      made->recorded_ = true;
      return error;
    }
    choice.generation = std::move(*generation);
    made->choices_.push_back(std::move(choice));
  }
  for (Choice& choice : made->choices_) choice.generation->SetNotify(made->wake_);
  made->exchange_->OnDisconnect(made->wake_);
  session = std::move(made);
  return std::nullopt;
}

GenerationSession::GenerationSession(GenerationPlan plan, std::shared_ptr<Exchange> exchange,
                                     std::function<void()> wake, Metrics* metrics,
                                     const Clock* clock, TimeUs arrival_us)
    : format_(std::move(plan.format)),
      choices_per_prompt_(plan.choices_per_prompt),
      include_usage_(plan.include_usage),
      exchange_(std::move(exchange)),
      wake_(std::move(wake)),
      metrics_(metrics),
      clock_(clock),
      arrival_us_(arrival_us) {}

GenerationSession::~GenerationSession() { Record(Outcome::kCancelled); }

Session::Progress GenerationSession::Advance() {
  if (state_ == State::kRunning && exchange_->disconnected()) {
    Record(Outcome::kCancelled);
    state_ = State::kFinished;
  }
  if (state_ == State::kRunning && stream() && !events_started_) {
    events_started_ = true;
    exchange_->StartEvents();
  }
  if (state_ == State::kRunning && Flush()) Pull();
  if (state_ == State::kEnding && Flush()) {
    if (stream()) exchange_->Finish();
    state_ = State::kFinished;
  }
  if (state_ != State::kFinished) return Progress::kWaiting;
  choices_.clear();  // cancels what still runs
  return Progress::kDone;
}

void GenerationSession::Abort(const ApiError& error) {
  if (state_ == State::kRunning) EndWith(error);
}

/// Takes what the generations have, until they have nothing more or the responder is full.
void GenerationSession::Pull() {
  bool more = true;
  while (more && state_ == State::kRunning) {
    more = false;
    for (size_t i = 0; i < choices_.size() && state_ == State::kRunning; ++i) {
      more |= PullOnce(i);
      if (!Flush()) return;
    }
  }
}

bool GenerationSession::PullOnce(size_t index) {
  Choice& choice = choices_[index];
  if (choice.finished) return false;
  std::optional<engine::GenerationDelta> delta = choice.generation->TryNext();
  if (!delta) return false;
  Take(index, *std::move(delta));
  return true;
}

void GenerationSession::Take(size_t index, engine::GenerationDelta delta) {
  Choice& choice = choices_[index];
  if (delta.progress && !choice.begun) EmitProgress(index, *delta.progress);
  TakeTokens(choice, delta);
  Piece piece;
  if (!choice.begun && (delta.prompt || !delta.tokens.empty() || delta.finish)) {
    choice.begun = true;
    piece.first = true;
    piece.text = std::move(choice.echo_text);
    piece.prompt_ids = std::move(choice.prompt_ids);
  }
  if (delta.prompt && choice.echo_logprobs) {
    piece.prompt_tokens = std::move(delta.prompt->prompt_logprobs);
  }
  piece.text += delta.text;
  const ResponseContext& context = format_->context();
  if (context.logprobs || context.return_token_ids) piece.tokens = std::move(delta.tokens);
  if (delta.finish) {
    if (std::optional<ApiError> error = TakeFinish(choice, *delta.finish, piece)) {
      if (stream()) Emit(index, std::move(piece));  // the text that came before the end is good
      return EndWith(*error);
    }
  }
  Emit(index, std::move(piece));
  if (std::ranges::all_of(choices_, &Choice::finished)) EndWell();
}

void GenerationSession::TakeTokens(Choice& choice, const engine::GenerationDelta& delta) {
  if (delta.tokens.empty()) return;
  const TimeUs now_us = clock_->NowUs();
  int64_t following = static_cast<int64_t>(delta.tokens.size());
  if (choice.last_token_us == 0) {
    --following;
    if (!first_token_seen_) metrics_->ObserveFirstToken(SecondsSince(arrival_us_));
    first_token_seen_ = true;
  }
  const TimeUs before_us = choice.last_token_us == 0 ? now_us : choice.last_token_us;
  metrics_->ObserveTokens(static_cast<double>(now_us - before_us) * 1e-6, following);
  choice.last_token_us = now_us;
}

std::optional<ApiError> GenerationSession::TakeFinish(Choice& choice,
                                                      const engine::FinishEvent& finish,
                                                      Piece& piece) {
  choice.finished = true;
  if (choice.grammar) {
    if (const std::optional<std::string> failure = choice.grammar->failure()) {
      return FromError(Error(ErrorCode::kInternal, "constrained output failed: " + *failure));
    }
  }
  switch (finish.reason) {
    case engine::FinishReason::kStop:
      piece.finish_reason = "stop";
      choice.stopped = true;
      return std::nullopt;
    case engine::FinishReason::kLength:
      piece.finish_reason = "length";
      return std::nullopt;
    case engine::FinishReason::kCancelled:
      return FromError(Error(ErrorCode::kUnavailable, "the request was cancelled by the server"));
    case engine::FinishReason::kError:
      break;
  }
  return FromError(finish.error.value_or(Error(ErrorCode::kInternal, "the engine failed")));
}

void GenerationSession::Emit(size_t index, Piece piece) {
  if (!stream()) {
    Piece& all = choices_[index].collected;
    all.first = all.first || piece.first;
    all.text += piece.text;
    if (!piece.prompt_ids.empty()) all.prompt_ids = std::move(piece.prompt_ids);
    if (!piece.prompt_tokens.empty()) all.prompt_tokens = std::move(piece.prompt_tokens);
    std::ranges::move(piece.tokens, std::back_inserter(all.tokens));
    if (piece.finish_reason) all.finish_reason = std::move(piece.finish_reason);
    return;
  }
  if (!piece.first && piece.text.empty() && piece.tokens.empty() && piece.prompt_tokens.empty() &&
      !piece.finish_reason) {
    return;
  }
  json::array choices;
  choices.push_back(format_->Choice(static_cast<int>(index), piece));
  pending_ += net::SseData(
      json::Serialize(Envelope(*format_, std::move(choices), nullptr, include_usage_)));
}

void GenerationSession::EmitProgress(size_t index, const engine::ProgressEvent& progress) {
  if (!stream()) return;
  std::string text = choices_.size() > 1 ? "choice " + std::to_string(index) + " " : "";
  text += "prefill " + std::to_string(progress.computed_tokens) + "/" +
          std::to_string(progress.prompt_tokens);
  pending_ += net::SseComment(text);
}

void GenerationSession::EndWell() {
  const bool stopped = std::ranges::all_of(choices_, &Choice::stopped);
  const Usage usage = CountUsage();
  state_ = State::kEnding;
  if (stream()) {
    if (include_usage_) pending_ += net::SseData(json::Serialize(Envelope(*format_, {}, &usage)));
    pending_ += net::SseData("[DONE]");
  } else {
    json::array choices;
    for (size_t i = 0; i < choices_.size(); ++i) {
      choices.push_back(format_->Choice(static_cast<int>(i), choices_[i].collected));
    }
    exchange_->SendJson(200, Envelope(*format_, std::move(choices), &usage));
  }
  Record(stopped ? Outcome::kStop : Outcome::kLength);
}

void GenerationSession::EndWith(const ApiError& error) {
  state_ = State::kEnding;
  if (events_started_) {
    pending_ += net::SseData(json::Serialize(error.ToJson()));
    pending_ += net::SseData("[DONE]");
  } else {
    exchange_->SendError(error);
  }
  Record(Outcome::kError);
}

void GenerationSession::Record(Outcome outcome) {
  if (std::exchange(recorded_, true)) return;
  const Usage usage = CountUsage();
  metrics_->ObserveEnd(outcome, SecondsSince(arrival_us_), usage.prompt_tokens,
                       usage.completion_tokens);
}

Usage GenerationSession::CountUsage() const {
  Usage usage;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const engine::Generation& generation = *choices_[i].generation;
    usage.completion_tokens += generation.completion_tokens();
    // The choices of one prompt share it; its first one tells what the cache saved.
    if (i % static_cast<size_t>(choices_per_prompt_) != 0) continue;
    usage.prompt_tokens += generation.prompt_tokens();
    usage.cached_tokens += generation.cached_tokens();
  }
  return usage;
}

/// Hands pending bytes to the responder. False while they wait for the client.
bool GenerationSession::Flush() {
  if (pending_.empty()) return true;
  switch (exchange_->Write(pending_)) {
    case net::WriteResult::kOk:
      pending_.clear();
      return true;
    case net::WriteResult::kFull:
      exchange_->OnDrained(wake_);
      return false;
    case net::WriteResult::kClosed:
      break;
  }
  pending_.clear();
  Record(Outcome::kCancelled);
  state_ = State::kFinished;
  return false;
}

double GenerationSession::SecondsSince(TimeUs start_us) const {
  return static_cast<double>(clock_->NowUs() - start_us) * 1e-6;
}

}  // namespace halfmoon::serve
