// SPDX-License-Identifier: Apache-2.0
// What Stats() tells. Written by the loop, read by anybody.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "transfer/transfer.h"

namespace halfmoon::transfer {

/// Thread-safe.
struct Counters {
  struct Path {
    std::atomic<uint64_t> sent_bytes{0};
    std::atomic<uint64_t> received_bytes{0};
    std::atomic<uint64_t> failures{0};
  };
  std::array<Path, kNumPaths> paths;
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> failed_reads{0};
  std::atomic<uint64_t> failovers{0};
  std::atomic<int> active{0};

  Path& path(PathKind kind) { return paths[static_cast<size_t>(kind)]; }
};

}  // namespace halfmoon::transfer
