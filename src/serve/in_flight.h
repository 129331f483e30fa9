// SPDX-License-Identifier: Apache-2.0
// Counts the requests that a shutdown has to wait for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace halfmoon::serve {

/// Thread-safe.
class InFlight {
 public:
  void Begin();
  void End();
  int count() const;
  /// Waits until nothing is in flight, at most `timeout`. False when it ran out.
  bool WaitIdle(std::chrono::milliseconds timeout);

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  int count_ = 0;  // GUARDED_BY(mutex_)
};

}  // namespace halfmoon::serve
