// SPDX-License-Identifier: Apache-2.0
// How engine and IO threads tell the session thread that a session has something to do.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_set>

namespace halfmoon::serve {

enum class SessionId : uint64_t {};

/// A queue of session ids in which an id waits at most once, so its size is bounded by the number
/// of sessions however often they are woken. Thread-safe; Wake holds its lock for one insertion
/// only and may be called from the engine thread.
class WakeQueue {
 public:
  void Wake(SessionId id);
  /// Waits for an id; nullopt once closed.
  std::optional<SessionId> Pop();
  void Close();

 private:
  std::mutex mutex_;
  std::condition_variable not_empty_;
  std::deque<SessionId> order_;            // GUARDED_BY(mutex_)
  std::unordered_set<SessionId> waiting_;  // GUARDED_BY(mutex_): the ids in order_
  bool closed_ = false;                    // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::serve
