// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: what conductors are told of the blocks that lie on a node.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_set>

#include "cluster/engine_handle.h"
#include "cluster/messages.h"
#include "net/channel.h"

namespace halfmoon::cluster {

/// Tells each conductor first what lies in pages, then piece by piece what lies in the other tiers,
/// and from the beginning on everything that changes, so that a node with millions of blocks
/// neither stalls nor sends a message of their size. A conductor that comes (again) gets all of it.
/// IO thread only.
class BlockReport {
 public:
  /// The engine outlives it, and tells its changes to nobody else.
  explicit BlockReport(EngineHandle* engine) : engine_(engine) {}

  void Add(const std::shared_ptr<net::Channel>& conductor);
  void Remove(const net::Channel* conductor) { listeners_.erase(conductor); }
  /// Sends the next piece. True where more is waiting: to be called again soon.
  bool Tell();

  size_t num_in_pages() const { return in_pages_.size(); }

 private:
  struct Listener {
    std::shared_ptr<net::Channel> channel;
    std::array<int32_t, kNumTiers> next{};     // place that it is told of next
    std::array<bool, kNumTiers> listed{true};  // pages are told at once
  };

  void TakePages();
  bool TellChanges(Tier tier);
  bool ListMore(Listener* listener, Tier tier);
  void Broadcast(const Blocks& message) const;

  EngineHandle* const engine_;
  std::unordered_set<kv::BlockKey> in_pages_;  // as far as told
  std::map<const net::Channel*, Listener> listeners_;
};

}  // namespace halfmoon::cluster
