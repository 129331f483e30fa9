// SPDX-License-Identifier: Apache-2.0
// Which nodes have which blocks, for a hundred million blocks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "cluster/node.h"
#include "kv/block_key.h"

namespace halfmoon::cluster {

/// A small number that stands for a node inside the directory.
using NodeSlot = uint16_t;

/// Leading blocks that a node has, by the fastest tier that each lies in.
struct PrefixRun {
  NodeSlot slot = 0;
  std::array<int32_t, kNumTiers> by_tier{};

  int32_t blocks() const { return by_tier[0] + by_tier[1] + by_tier[2]; }
};

/// A hash table of 8 bytes an entry, one entry for each block of each node: 44 bits of the key
/// beside 16 more that the shard stands for, the node, its tiers. With its growth by a quarter an
/// entry takes 10 to 12.5 bytes of memory. Two of 100 M keys are taken for one another with a
/// probability of 1e-10 a lookup; the price is a transfer that finds nothing, since nodes compare
/// whole keys.
///
/// Keys that more than kMaxEntries nodes have get bit sets instead, so that a system prompt that
/// every node holds costs a lookup no more than another.
///
/// Not thread-safe. No function takes time that grows with the table: shards grow one by one, and a
/// node's entries go by and by.
class PrefixDirectory {
 public:
  static constexpr int kMaxEntries = 8;

  PrefixDirectory();

  void Add(const kv::BlockKey& key, NodeSlot slot, Tier tier);
  /// Nothing where it is not there.
  void Remove(const kv::BlockKey& key, NodeSlot slot, Tier tier);
  /// The slot has nothing from now on. Its entries are swept out later: until swept() it must not
  /// be given to another node.
  void DropNode(NodeSlot slot);
  bool swept() const { return dropped_.empty(); }
  /// A part of the sweep.
  void Sweep();

  /// Nodes that have keys[0], keys[1] and so on without a gap, each with how far; in order of
  /// slots. The result is valid until the next call.
  std::span<const PrefixRun> Find(std::span<const kv::BlockKey> keys);

  size_t num_entries() const { return num_entries_; }
  size_t num_shared() const { return shared_index_.size(); }
  /// Of all tables, without what the allocator adds.
  size_t memory_bytes() const { return memory_bytes_; }

 private:
  // Bits 63..20: fingerprint; 19..4: slot; 3..1: tiers; 0: shared. An entry is never 0.
  using Entry = uint64_t;
  using Bits = std::vector<uint64_t>;
  struct Shard {
    std::unique_ptr<Entry[]> entries;
    uint32_t capacity = 0;
    uint32_t count = 0;
  };
  /// Nodes of a key, by tier.
  struct Shared {
    uint64_t id = 0;
    std::array<Bits, kNumTiers> nodes;
    bool used = false;
  };
  /// Matches of a key in its shard.
  struct Matches {
    std::array<uint32_t, kMaxEntries> at{};
    int count = 0;
  };

  Shard& ShardOf(const kv::BlockKey& key);
  Matches Match(const Shard& shard, uint64_t fingerprint) const;
  void Insert(Shard* shard, Entry entry);
  void Erase(Shard* shard, uint32_t at);
  void Grow(Shard* shard);
  void Rebuild(Shard* shard, uint32_t capacity);
  void Share(Shard* shard, const kv::BlockKey& key, const Matches& matches);
  void UnshareIfFew(size_t index);
  void Widen(NodeSlot slot);
  /// Has the cache lines of later keys on their way.
  void Prefetch(std::span<const kv::BlockKey> keys, size_t next) const;
  /// Nodes of the key by fastest tier into here_, dropped ones left out.
  void Lookup(const kv::BlockKey& key);
  void Flush(NodeSlot slot, int tier, int32_t end);
  bool IsDropped(NodeSlot slot) const;

  std::vector<Shard> shards_;
  std::vector<Shared> shared_;
  std::vector<size_t> free_shared_;
  std::unordered_map<uint64_t, size_t> shared_index_;  // by 60-bit id; never iterated
  size_t num_words_ = 1;                               // of a bit set over slots
  std::vector<NodeSlot> dropped_;
  Bits dropped_bits_;
  size_t sweep_shard_ = 0;
  size_t sweep_shared_ = 0;
  size_t num_entries_ = 0;
  size_t memory_bytes_ = 0;

  // Of the search that is going on.
  std::array<Bits, kNumTiers> here_;
  std::array<Bits, kNumTiers> current_;
  std::vector<int32_t> since_;  // by slot: block from which on it is in its tier
  std::vector<PrefixRun> by_slot_;
  std::vector<PrefixRun> found_;
};

}  // namespace halfmoon::cluster
