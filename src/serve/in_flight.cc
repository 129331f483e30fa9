// SPDX-License-Identifier: Apache-2.0
#include "serve/in_flight.h"

namespace halfmoon::serve {

void InFlight::Begin() {
  std::lock_guard lock(mutex_);
  ++count_;
}

void InFlight::End() {
  // Notified under the lock: a waiter that sees zero may destroy this object at once.
  std::lock_guard lock(mutex_);
  if (--count_ == 0) idle_.notify_all();
}

int InFlight::count() const {
  std::lock_guard lock(mutex_);
  return count_;
}

bool InFlight::WaitIdle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, timeout, [this] { return count_ == 0; });
}

}  // namespace halfmoon::serve
