// SPDX-License-Identifier: Apache-2.0
// What a node of a cluster needs to know of the pages of its engine.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "kv/block_key.h"

namespace halfmoon::engine {

/// Where page i starts at i * page_bytes; a layer of it is layer_bytes from layer * layer_bytes on.
struct PageMemoryView {
  std::span<std::byte> bytes;
  int file = -1;  ///< with EngineOptions::shared_pages: the memory file
  size_t page_bytes = 0;
  size_t layer_bytes = 0;
  int num_layers = 0;
};

/// Blocks that the prefix index can serve.
struct BlockChanges {
  std::vector<kv::BlockKey> added;
  std::vector<kv::BlockKey> removed;
};

/// Thread-safe.
class LocalPages {
 public:
  virtual ~LocalPages() = default;
  virtual PageMemoryView page_memory() = 0;
  virtual int block_size() const = 0;
  /// Key in front of the first block of sequences with this salt.
  virtual kv::BlockKey SeedKey(std::string_view cache_salt) const = 0;
  /// What has changed since the last call, each block once and as it is now. Requires
  /// EngineOptions::track_blocks.
  virtual BlockChanges TakeBlockChanges() = 0;
};

}  // namespace halfmoon::engine
