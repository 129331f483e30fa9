// SPDX-License-Identifier: Apache-2.0
#include "serve/session_loop.h"

#include <exception>
#include <utility>
#include <vector>

#include "base/log.h"

namespace halfmoon::serve {

SessionLoop::SessionLoop() : thread_([this] { Run(); }) {}

SessionLoop::~SessionLoop() { Stop(); }

std::function<void()> SessionLoop::Waker(SessionId id) {
  return [queue = queue_, id] { queue->Wake(id); };
}

void SessionLoop::Add(SessionId id, std::unique_ptr<Session> session) {
  {
    std::lock_guard lock(mutex_);
    incoming_.emplace(id, std::move(session));
  }
  queue_->Wake(id);
}

void SessionLoop::AbortAll(ApiError error) {
  {
    std::lock_guard lock(mutex_);
    abort_error_ = std::move(error);
  }
  queue_->Wake(kControl);
}

void SessionLoop::Stop() {
  queue_->Close();
  if (thread_.joinable()) thread_.join();
  std::lock_guard lock(mutex_);
  incoming_.clear();
}

void SessionLoop::Run() {
  while (const std::optional<SessionId> id = queue_->Pop()) {
    TakeIncoming();
    if (*id == kControl) {
      ApplyAbort();
    } else {
      Advance(*id);
    }
  }
  sessions_.clear();
}

void SessionLoop::TakeIncoming() {
  std::unordered_map<SessionId, std::unique_ptr<Session>> incoming;
  std::optional<ApiError> abort;
  {
    std::lock_guard lock(mutex_);
    incoming.swap(incoming_);
    abort = abort_error_;
  }
  for (auto& [id, session] : incoming) {
    if (abort) session->Abort(*abort);
    sessions_.emplace(id, std::move(session));
  }
}

void SessionLoop::ApplyAbort() {
  std::optional<ApiError> abort;
  {
    std::lock_guard lock(mutex_);
    abort = abort_error_;
  }
  if (!abort) return;
  std::vector<SessionId> ids;
  ids.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) ids.push_back(id);
  for (const SessionId id : ids) {
    sessions_[id]->Abort(*abort);
    Advance(id);
  }
}

void SessionLoop::Advance(SessionId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;  // a late wake of a session that has ended
  bool done = true;
  try {
    done = found->second->Advance() == Session::Progress::kDone;
  } catch (const std::exception& error) {
    // Its responder, dropped unanswered or in the middle, tells the client that something failed.
    HM_LOG_ERROR("an answer was given up: {}", error.what());
  }
  if (done) sessions_.erase(found);
}

}  // namespace halfmoon::serve
