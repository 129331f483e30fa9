// SPDX-License-Identifier: Apache-2.0
// What a store counts, for /metrics and logs.
#pragma once

#include <cstdint>

namespace halfmoon::store {

/// What the disk held when it was opened.
struct SegmentsFound {
  uint64_t blocks = 0;
  uint64_t bytes = 0;          ///< of these blocks
  uint64_t other_bytes = 0;    ///< segments of other models, kept as long as there is room
  uint64_t removed_files = 0;  ///< damaged, unfinished, or beyond the budget
};

/// Counters since the start, gauges now.
struct TierStats {
  uint64_t budget_bytes = 0;  ///< 0: there is no such tier
  uint64_t used_bytes = 0;    ///< of blocks that can be fetched
  uint64_t blocks = 0;
  uint64_t hits = 0;  ///< fetches that it served
  uint64_t evictions = 0;
  uint64_t read_bytes = 0;
  uint64_t write_bytes = 0;
  uint64_t read_us = 0;  ///< time in which reads were going on
  uint64_t write_us = 0;
  uint64_t read_errors = 0;  ///< the system refused
  uint64_t write_errors = 0;
  uint64_t corrupt_blocks = 0;  ///< a checksum was wrong: dropped, and computed instead
};

struct StoreStats {
  TierStats dram;
  TierStats disk;
  uint64_t misses = 0;        ///< fetches of blocks that had gone
  uint64_t dropped_puts = 0;  ///< blocks that did not get into the lowest tier: no room, no time
  uint64_t stale_puts = 0;    ///< writes that did not end in time
  uint64_t pending_puts = 0;
  SegmentsFound found;
};

}  // namespace halfmoon::store
