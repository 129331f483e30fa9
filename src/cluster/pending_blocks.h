// SPDX-License-Identifier: Apache-2.0
// Blocks that nodes are about to have, since a request that was placed there computes them.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "cluster/placement.h"
#include "cluster/prefix_directory.h"

namespace halfmoon::cluster {

/// A second turn often comes before the first one's prompt has been computed. Its prefix is nowhere
/// yet, but it will be where the first one is computed. Not thread-safe.
class PendingBlocks {
 public:
  /// The request will have these at the node. Requires that it has nothing pending.
  void Add(RequestId request, NodeSlot slot, std::span<const kv::BlockKey> keys);
  /// The request has been computed, or never will be. Nothing where it has nothing pending.
  void Drop(RequestId request);

  /// How many leading keys each node will have: BlocksOf tells until the next call.
  /// local: by slot, what nodes have now; longest: the most that one of them has.
  /// Cost: a look-up a key until no node goes on.
  void Find(std::span<const kv::BlockKey> keys, std::span<const PrefixRun> local, int32_t longest);
  /// Less than what the node has now: nothing that is pending lengthens it.
  int32_t BlocksOf(NodeSlot slot) const { return slot < found_.size() ? found_[slot] : 0; }

  size_t num_blocks() const { return slots_by_key_.size(); }

 private:
  struct At {
    NodeSlot slot = 0;
    int32_t count = 0;  // of requests
  };
  struct Pending {
    NodeSlot slot = 0;
    std::vector<kv::BlockKey> keys;
  };

  std::unordered_map<RequestId, Pending> requests_;                 // never iterated
  std::unordered_map<kv::BlockKey, std::vector<At>> slots_by_key_;  // never iterated
  std::vector<int32_t> found_;
  std::vector<NodeSlot> touched_;  // of found_, those that are not 0
};

}  // namespace halfmoon::cluster
