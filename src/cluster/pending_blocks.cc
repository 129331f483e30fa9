// SPDX-License-Identifier: Apache-2.0
#include "cluster/pending_blocks.h"

#include <algorithm>

#include "base/check.h"

namespace halfmoon::cluster {

void PendingBlocks::Add(RequestId request, NodeSlot slot, std::span<const kv::BlockKey> keys) {
  if (keys.empty()) return;
  const bool is_new =
      requests_.try_emplace(request, Pending{.slot = slot, .keys = {keys.begin(), keys.end()}})
          .second;
  HM_CHECK(is_new, "a request whose blocks are pending already");
  for (const kv::BlockKey& key : keys) {
    std::vector<At>& nodes = slots_by_key_[key];
    const auto found = std::ranges::find(nodes, slot, &At::slot);
    if (found == nodes.end()) {
      nodes.push_back({.slot = slot, .count = 1});
    } else {
      ++found->count;
    }
  }
}

void PendingBlocks::Drop(RequestId request) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  for (const kv::BlockKey& key : found->second.keys) {
    const auto entry = slots_by_key_.find(key);
    std::erase_if(entry->second,
                  [&](At& at) { return at.slot == found->second.slot && --at.count == 0; });
    if (entry->second.empty()) slots_by_key_.erase(entry);
  }
  requests_.erase(found);
}

void PendingBlocks::Find(std::span<const kv::BlockKey> keys, std::span<const PrefixRun> local,
                         int32_t longest) {
  for (const NodeSlot slot : touched_) found_[slot] = 0;
  touched_.clear();
  if (slots_by_key_.empty()) return;
  found_.resize(std::max(found_.size(), local.size()));
  int32_t reach = longest;
  for (int32_t block = 0; block <= reach && block < static_cast<int32_t>(keys.size()); ++block) {
    const auto entry = slots_by_key_.find(keys[static_cast<size_t>(block)]);
    if (entry == slots_by_key_.end()) continue;
    for (const At& at : entry->second) {
      if (std::max(found_[at.slot], local[at.slot].blocks()) < block) continue;
      if (found_[at.slot] == 0) touched_.push_back(at.slot);
      found_[at.slot] = block + 1;
      reach = std::max(reach, block + 1);
    }
  }
}

}  // namespace halfmoon::cluster
