// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <chrono>

namespace halfmoon {

TimeUs MonotonicClock::NowUs() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t UnixTimeSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace halfmoon
