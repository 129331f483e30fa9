// SPDX-License-Identifier: Apache-2.0
// One running generation request: its sequences on one side, its HTTP answer on the other.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "serve/exchange.h"
#include "serve/prepare.h"
#include "serve/session_loop.h"

namespace halfmoon::serve {

/// Pulls output only as fast as the client reads it: while the responder's buffer is full nothing
/// is taken from the generations, whose own bounded streams then hold the engine back. A client
/// that goes away cancels its sequences. Session thread only, after Start.
class GenerationSession final : public Session {
 public:
  /// Queues every sequence of the plan in the engine, or none. Errors: FromError's of
  /// Generation::Start. wake: wakes the session, from any thread. clock and metrics outlive the
  /// session.
  static std::optional<ApiError> Start(const Backend& backend, GenerationPlan plan,
                                       std::shared_ptr<Exchange> exchange,
                                       std::function<void()> wake, Metrics* metrics,
                                       const Clock* clock, TimeUs arrival_us,
                                       std::unique_ptr<GenerationSession>& session);
  ~GenerationSession() override;

  Progress Advance() override;
  void Abort(const ApiError& error) override;

 private:
  struct Choice;
  enum class State {
    kRunning,   ///< taking output
    kEnding,    ///< the last bytes are pending
    kFinished,  ///< nothing left to do
  };

  GenerationSession(GenerationPlan plan, std::shared_ptr<Exchange> exchange,
                    std::function<void()> wake, Metrics* metrics, const Clock* clock,
                    TimeUs arrival_us);

  bool stream() const { return format_->context().stream; }
  void Pull();
  bool PullOnce(size_t index);
  void Take(size_t index, engine::GenerationDelta delta);
  void TakeTokens(Choice& choice, const engine::GenerationDelta& delta);
  std::optional<ApiError> TakeFinish(Choice& choice, const engine::FinishEvent& finish,
                                     Piece& piece);
  void Emit(size_t index, Piece piece);
  void EmitProgress(size_t index, const engine::ProgressEvent& progress);
  void EndWell();
  void EndWith(const ApiError& error);
  void Record(Outcome outcome);
  Usage CountUsage() const;
  bool Flush();
  double SecondsSince(TimeUs start_us) const;

  const std::unique_ptr<ResponseFormat> format_;
  const int choices_per_prompt_;
  const bool include_usage_;
  const std::shared_ptr<Exchange> exchange_;
  const std::function<void()> wake_;
  Metrics* const metrics_;
  const Clock* const clock_;
  const TimeUs arrival_us_;

  std::vector<Choice> choices_;
  State state_ = State::kRunning;
  bool events_started_ = false;
  bool recorded_ = false;
  bool first_token_seen_ = false;
  std::string pending_;  // formatted and not yet taken by the responder; streams only
};

}  // namespace halfmoon::serve
