// SPDX-License-Identifier: Apache-2.0
// The blocks that a simulated node keeps, in DRAM and on SSD.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cluster/node.h"
#include "kv/block_key.h"

namespace halfmoon::sim {

/// A block that came to a tier, or went from it.
struct BlockChange {
  kv::BlockKey key;
  cluster::Tier tier{};
  bool stored = false;
};

/// Least recently used goes first: from DRAM to the SSD, from there for good. A block that is used
/// comes back to DRAM. Of a request, the first block counts as used last, so that the end of a
/// prefix goes before its beginning.
class LruBlocks {
 public:
  LruBlocks(int64_t dram_blocks, int64_t ssd_blocks);

  /// nullopt: it is not there.
  std::optional<cluster::Tier> TierOf(const kv::BlockKey& key) const;
  /// All of them are there from now on, as far as there is room; appends what changed.
  void Use(std::span<const kv::BlockKey> keys, std::vector<BlockChange>* changes);
  /// How many leading ones are there.
  int32_t CountPrefix(std::span<const kv::BlockKey> keys) const;
  void Clear();

  size_t num_blocks() const { return index_.size(); }

 private:
  static constexpr int32_t kNone = -1;
  struct Block {
    kv::BlockKey key;
    int32_t older = kNone;
    int32_t younger = kNone;
    bool on_ssd = false;
  };
  struct List {
    int32_t oldest = kNone;
    int32_t youngest = kNone;
    int64_t count = 0;
    int64_t capacity = 0;
  };

  void UseOne(const kv::BlockKey& key, std::vector<BlockChange>* changes);
  void Unlink(int32_t at);
  void Append(int32_t at, bool on_ssd);

  List dram_;
  List ssd_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;
  std::unordered_map<kv::BlockKey, int32_t> index_;
};

}  // namespace halfmoon::sim
