// SPDX-License-Identifier: Apache-2.0
// What a model with experts on disk says about them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace halfmoon::model {

/// How the memory for experts was divided at start.
struct ExpertMemory {
  size_t budget_bytes = 0;
  size_t num_experts = 0;       ///< of all layers
  size_t num_slots = 0;         ///< experts in memory at once
  size_t slot_bytes = 0;        ///< the largest expert in kernel layout
  size_t num_read_buffers = 0;  ///< experts being read, or read and not yet in a slot
  size_t read_buffer_bytes = 0;
  size_t packed_bytes = 0;  ///< all experts in kernel layout: what they would take in memory
  bool locked = false;      ///< the system promised not to swap the slots
  std::string method;       ///< how they are read (FileReader::method)
};

/// Counters since start. All zero for models whose experts are in memory.
struct ExpertStats {
  uint64_t hits = 0;              ///< (layer, expert) pairs of a step found in memory
  uint64_t misses = 0;            ///< those that were not
  uint64_t predicted = 0;         ///< pairs that were foretold for the next layer
  uint64_t predicted_needed = 0;  ///< of them, those that the layer then used
  uint64_t prefetched = 0;        ///< experts read because they were foretold
  uint64_t prefetched_used = 0;   ///< of them, those that were used before they were dropped
  uint64_t bytes_read = 0;
  uint64_t wait_us = 0;  ///< steps stood still for the disk
  uint64_t pack_us = 0;  ///< steps laid out what was read
  uint64_t errors = 0;   ///< steps that failed for want of an expert
};

}  // namespace halfmoon::model
