// SPDX-License-Identifier: Apache-2.0
// The thread on which all running answers live.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "serve/api_error.h"
#include "serve/wake_queue.h"

namespace halfmoon::serve {

/// An answer that is being produced. All calls come from the session thread.
class Session {
 public:
  enum class Progress { kWaiting, kDone };

  virtual ~Session() = default;
  /// Does what can be done without waiting. kDone: the session is destroyed.
  virtual Progress Advance() = 0;
  /// Ends the answer with `error` instead of going on; Advance follows until kDone.
  virtual void Abort(const ApiError& error) = 0;
};

/// Owns sessions and advances each one when it is woken. Sessions need no locks: only this thread
/// touches them once they are added. Thread-safe.
class SessionLoop {
 public:
  SessionLoop();
  SessionLoop(const SessionLoop&) = delete;
  SessionLoop& operator=(const SessionLoop&) = delete;
  /// Stop().
  ~SessionLoop();

  SessionId NextId() { return SessionId(next_id_.fetch_add(1)); }

  /// A callback that wakes session `id`: quick, usable on any thread, also after this loop is gone.
  std::function<void()> Waker(SessionId id);

  /// Takes the session over and advances it soon. After AbortAll it is aborted at once.
  void Add(SessionId id, std::unique_ptr<Session> session);

  /// Aborts every session, those added later too.
  void AbortAll(ApiError error);

  /// Destroys the sessions that are left and joins the thread. Idempotent; not from the session
  /// thread.
  void Stop();

 private:
  // No session has this id; waking it makes the loop look at abort_error_.
  static constexpr SessionId kControl{0};

  void Run();
  void TakeIncoming();
  void ApplyAbort();
  void Advance(SessionId id);

  const std::shared_ptr<WakeQueue> queue_ = std::make_shared<WakeQueue>();
  std::atomic<uint64_t> next_id_{1};

  std::mutex mutex_;
  std::unordered_map<SessionId, std::unique_ptr<Session>> incoming_;  // GUARDED_BY(mutex_)
  std::optional<ApiError> abort_error_;                               // GUARDED_BY(mutex_)

  std::unordered_map<SessionId, std::unique_ptr<Session>> sessions_;  // session thread only
  std::thread thread_;
};

}  // namespace halfmoon::serve
