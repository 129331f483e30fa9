// SPDX-License-Identifier: Apache-2.0
// Time as an interface, so that scheduler, store and simulator run under a clock they are given.
#pragma once

#include <atomic>
#include <cstdint>

namespace halfmoon {

/// Microseconds of a clock that never goes back. Its zero has no meaning.
using TimeUs = int64_t;

/// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimeUs NowUs() const = 0;
};

/// The machine's monotonic clock.
class MonotonicClock final : public Clock {
 public:
  TimeUs NowUs() const override;
};

/// A clock that moves when told to; for tests and the simulator.
class ManualClock final : public Clock {
 public:
  TimeUs NowUs() const override { return now_us_.load(); }
  void AdvanceUs(TimeUs delta_us) { now_us_ += delta_us; }

 private:
  std::atomic<TimeUs> now_us_{0};
};

/// Seconds since the Unix epoch, for API fields such as "created". Never for measuring.
int64_t UnixTimeSeconds();

}  // namespace halfmoon
