// SPDX-License-Identifier: Apache-2.0
// What a person reads while bytes arrive: how much, how fast, how long still.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/clock.h"

namespace halfmoon::app {

/// Not thread-safe.
class TransferMeter {
 public:
  /// `begin_bytes` were here before and count for no rate.
  TransferMeter(uint64_t begin_bytes, TimeUs begin_us);

  /// `done_bytes` of the whole at that time. May go back: then something begins anew.
  void Update(uint64_t done_bytes, TimeUs now_us);

  /// Bytes a second over the last seconds; 0 while nothing is known.
  double bytes_per_s() const;
  /// "37 % of 1.2 GiB, 23.4 MiB/s, 1 min 12 s left".
  std::string Text(uint64_t total_bytes) const;

 private:
  struct Sample {
    TimeUs time_us;
    uint64_t bytes;
  };
  std::deque<Sample> samples_;  // of the window, at least one
};

/// "45 s", "3 min 5 s", "2 h 10 min".
std::string DurationText(double seconds);

}  // namespace halfmoon::app
