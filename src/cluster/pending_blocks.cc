// SPDX-License-Identifier: Apache-2.0
#include "cluster/pending_blocks.h"

#include <algorithm>

#include "base/check.h"

namespace halfmoon::cluster {

void PendingBlocks::Add(RequestId request, NodeSlot slot, const QueueTurn& turn,
                        std::span<const kv::BlockKey> keys) {
  if (keys.empty()) return;
  const bool is_new =
      keys_.try_emplace(request, std::vector<kv::BlockKey>(keys.begin(), keys.end())).second;
  HM_CHECK(is_new, "a request whose blocks are pending already");
  for (const kv::BlockKey& key : keys) {
    std::vector<At>& nodes = by_key_[key];
    if (nodes.size() < kMaxPerKey) {
      nodes.push_back({.request = request, .slot = slot, .turn = turn});
    }
  }
}

void PendingBlocks::Start(RequestId request) {
  const auto found = keys_.find(request);
  if (found == keys_.end()) return;
  for (const kv::BlockKey& key : found->second) {
    const auto entry = by_key_.find(key);
    if (entry == by_key_.end()) continue;
    for (At& at : entry->second) {
      if (at.request == request) at.turn = kFirstTurn;
    }
  }
}

void PendingBlocks::Drop(RequestId request) {
  const auto found = keys_.find(request);
  if (found == keys_.end()) return;
  for (const kv::BlockKey& key : found->second) {
    const auto entry = by_key_.find(key);
    // Gone already where a prompt has the same block twice, or others had it first.
    if (entry == by_key_.end()) continue;
    std::erase_if(entry->second, [&](const At& at) { return at.request == request; });
    if (entry->second.empty()) by_key_.erase(entry);
  }
  keys_.erase(found);
}

void PendingBlocks::Find(std::span<const kv::BlockKey> keys, std::span<const PrefixRun> local,
                         int32_t longest) {
  for (const NodeSlot slot : touched_) found_[slot] = {};
  touched_.clear();
  if (by_key_.empty()) return;
  found_.resize(std::max(found_.size(), local.size()));
  int32_t reach = longest;
  for (int32_t block = 0; block <= reach && block < static_cast<int32_t>(keys.size()); ++block) {
    const auto entry = by_key_.find(keys[static_cast<size_t>(block)]);
    if (entry == by_key_.end()) continue;
    for (const At& at : entry->second) {
      Run& run = found_[at.slot];
      if (std::max(run.blocks, local[at.slot].blocks()) < block || run.blocks > block) continue;
      // The first one to bring it is enough.
      QueueTurn turn = at.turn;
      for (const At& other : entry->second) {
        if (other.slot == at.slot) turn = std::min(turn, other.turn);
      }
      if (run.blocks == 0) touched_.push_back(at.slot);
      run.blocks = block + 1;
      // What the node has now needs nobody.
      if (block >= local[at.slot].blocks()) run.turn = std::max(run.turn, turn);
      reach = std::max(reach, block + 1);
    }
  }
}

}  // namespace halfmoon::cluster
