// SPDX-License-Identifier: Apache-2.0
// Where the engine thread and the consumer of one request meet.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "engine/engine.h"

namespace halfmoon::engine {

/// Wakes the engine thread. Thread-safe. Shared, because handles may outlive the engine.
class WakeSignal {
 public:
  void Raise();
  /// Returns at once if raised since the last Wait, else sleeps until it is.
  void Wait();
  /// The same, for at most so long.
  void WaitFor(TimeUs timeout_us);

 private:
  std::mutex mutex_;
  std::condition_variable raised_condition_;
  bool raised_ = false;  // GUARDED_BY(mutex_)
};

/// A bounded queue of events with a notification. The engine asks full() before it computes for the
/// request and before each further token of a step, so the queue never holds more than capacity +
/// 3: a prompt, a token and a finish event. Thread-safe.
class EventStream {
 public:
  EventStream(int capacity, std::shared_ptr<WakeSignal> wake)
      : capacity_(static_cast<size_t>(capacity)), wake_(std::move(wake)) {}

  // Engine's side.

  /// Adds an event and notifies. Of two progress events in a row only the newer stays.
  void Push(Event event);
  /// True from the moment the queue has reached its capacity until it has drained to half, so that
  /// a sequence does not stop and start with each token.
  bool full();
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  // Consumer's side; see RequestHandle.

  std::optional<Event> TryNext();
  std::optional<Event> Next();
  void SetNotify(std::function<void()> notify);
  void Cancel();

 private:
  void Notify();
  std::optional<Event> PopAndUnlock(std::unique_lock<std::mutex> lock);

  const size_t capacity_;
  const std::shared_ptr<WakeSignal> wake_;
  std::atomic<bool> cancelled_{false};

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;  // GUARDED_BY(mutex_)
  bool full_ = false;         // GUARDED_BY(mutex_)
  bool finished_ = false;     // GUARDED_BY(mutex_): the FinishEvent has been pushed

  // Held while notify_ runs, so that after SetNotify the old one neither runs nor will.
  std::mutex notify_mutex_;
  std::function<void()> notify_;  // GUARDED_BY(notify_mutex_)
};

}  // namespace halfmoon::engine
