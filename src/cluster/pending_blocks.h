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
  /// The request will have these at the node, when those before `turn` in its queue are done.
  /// Requires that it has nothing pending.
  void Add(RequestId request, NodeSlot slot, const QueueTurn& turn,
           std::span<const kv::BlockKey> keys);
  /// It is being computed, so that nobody can be in front of it any more.
  void Start(RequestId request);
  /// The request has been computed, or never will be. Nothing where it has nothing pending.
  void Drop(RequestId request);

  /// Leading blocks that a node will have once what is before `turn` in its queue is done.
  struct Run {
    int32_t blocks = 0;
    QueueTurn turn = kFirstTurn;
  };
  /// Looks for a prompt's blocks at all nodes; RunOf tells. local: by slot, what nodes have now;
  /// longest: the most that one of them has. Cost: a look-up a key until no node goes on.
  void Find(std::span<const kv::BlockKey> keys, std::span<const PrefixRun> local, int32_t longest);
  /// Of the last Find. Blocks no more than the node has now: nothing pending lengthens those.
  Run RunOf(NodeSlot slot) const { return slot < found_.size() ? found_[slot] : Run{}; }

  size_t num_blocks() const { return by_key_.size(); }

 private:
  // Of a block that more requests than that bring to nodes, the first ones are enough to know.
  static constexpr size_t kMaxPerKey = 8;
  struct At {
    RequestId request{};
    NodeSlot slot = 0;
    QueueTurn turn;
  };

  std::unordered_map<RequestId, std::vector<kv::BlockKey>> keys_;  // never iterated
  std::unordered_map<kv::BlockKey, std::vector<At>> by_key_;       // never iterated
  std::vector<Run> found_;
  std::vector<NodeSlot> touched_;  // of found_, those that are not empty
};

}  // namespace halfmoon::cluster
