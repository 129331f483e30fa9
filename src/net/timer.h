// SPDX-License-Identifier: Apache-2.0
// Callbacks after a delay, periodically, or as soon as possible, on IO threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace halfmoon::net {

class IoPool;

/// Names one timer of one TimerService. Never reused.
enum class TimerId : uint64_t { kNone = 0 };

/// Runs callbacks on IO threads, never two of one service at the same time. Thread-safe. Callbacks
/// must return quickly; what they throw is logged and dropped.
class TimerService {
 public:
  /// A service with one IO thread of its own.
  TimerService();
  /// A service on threads that another object owns. That object calls Shutdown before it ends them.
  explicit TimerService(std::shared_ptr<IoPool> pool);
  TimerService(const TimerService&) = delete;
  TimerService& operator=(const TimerService&) = delete;
  /// Shutdown, then joins the thread if it is its own. Not from a callback.
  ~TimerService();

  /// Runs `callback` once after `delay`. kNone after Shutdown.
  TimerId After(std::chrono::milliseconds delay, std::function<void()> callback);

  /// Runs `callback` every `period` (at least 1 ms), first after one period. Ticks that a busy
  /// thread missed are skipped, not made up for. kNone after Shutdown.
  TimerId Every(std::chrono::milliseconds period, std::function<void()> callback);

  /// After this returns true, the callback does not begin any more; it may still be running on
  /// another thread. False where the timer has run already or does not exist.
  bool Cancel(TimerId id);

  /// Runs `callback` soon. False after Shutdown.
  bool Post(std::function<void()> callback);

  /// Cancels every timer and refuses new ones. What was posted before still runs. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace halfmoon::net
