// SPDX-License-Identifier: Apache-2.0
#include "sim/lru_blocks.h"

namespace halfmoon::sim {

using cluster::Tier;

LruBlocks::LruBlocks(int64_t dram_blocks, int64_t ssd_blocks) {
  dram_.capacity = dram_blocks;
  ssd_.capacity = ssd_blocks;
}

std::optional<Tier> LruBlocks::TierOf(const kv::BlockKey& key) const {
  const auto found = index_.find(key);
  if (found == index_.end()) return std::nullopt;
  return blocks_[static_cast<size_t>(found->second)].on_ssd ? Tier::kSsd : Tier::kDram;
}

int32_t LruBlocks::CountPrefix(std::span<const kv::BlockKey> keys) const {
  int32_t count = 0;
  for (const kv::BlockKey& key : keys) {
    if (!index_.contains(key)) break;
    ++count;
  }
  return count;
}

void LruBlocks::Clear() {
  index_.clear();
  blocks_.clear();
  free_.clear();
  for (List* list : {&dram_, &ssd_}) *list = {.capacity = list->capacity};
}

void LruBlocks::Unlink(int32_t at) {
  Block& block = blocks_[static_cast<size_t>(at)];
  List& list = block.on_ssd ? ssd_ : dram_;
  (block.older == kNone ? list.oldest : blocks_[static_cast<size_t>(block.older)].younger) =
      block.younger;
  (block.younger == kNone ? list.youngest : blocks_[static_cast<size_t>(block.younger)].older) =
      block.older;
  --list.count;
}

void LruBlocks::Append(int32_t at, bool on_ssd) {
  Block& block = blocks_[static_cast<size_t>(at)];
  List& list = on_ssd ? ssd_ : dram_;
  block.on_ssd = on_ssd;
  block.older = list.youngest;
  block.younger = kNone;
  (list.youngest == kNone ? list.oldest : blocks_[static_cast<size_t>(list.youngest)].younger) = at;
  list.youngest = at;
  ++list.count;
}

void LruBlocks::Use(std::span<const kv::BlockKey> keys, std::vector<BlockChange>* changes) {
  if (dram_.capacity <= 0) return;
  for (size_t i = keys.size(); i-- > 0;) UseOne(keys[i], changes);
}

void LruBlocks::UseOne(const kv::BlockKey& key, std::vector<BlockChange>* changes) {
  const auto [found, is_new] = index_.try_emplace(key, kNone);
  if (!is_new) {
    const int32_t at = found->second;
    const bool was_on_ssd = blocks_[static_cast<size_t>(at)].on_ssd;
    Unlink(at);
    Append(at, false);
    if (!was_on_ssd) return;
    changes->push_back({.key = key, .tier = Tier::kDram, .stored = true});
    changes->push_back({.key = key, .tier = Tier::kSsd, .stored = false});
  } else {
    int32_t at = static_cast<int32_t>(blocks_.size());
    if (free_.empty()) {
      blocks_.emplace_back();
    } else {
      at = free_.back();
      free_.pop_back();
    }
    found->second = at;
    blocks_[static_cast<size_t>(at)].key = key;
    Append(at, false);
    changes->push_back({.key = key, .tier = Tier::kDram, .stored = true});
  }
  if (dram_.count <= dram_.capacity) return;
  const int32_t demoted = dram_.oldest;
  const kv::BlockKey demoted_key = blocks_[static_cast<size_t>(demoted)].key;
  Unlink(demoted);
  if (ssd_.capacity > 0) {
    Append(demoted, true);
    changes->push_back({.key = demoted_key, .tier = Tier::kSsd, .stored = true});
  } else {
    index_.erase(demoted_key);
    free_.push_back(demoted);
  }
  changes->push_back({.key = demoted_key, .tier = Tier::kDram, .stored = false});
  if (ssd_.count <= ssd_.capacity) return;
  const int32_t gone = ssd_.oldest;
  const kv::BlockKey gone_key = blocks_[static_cast<size_t>(gone)].key;
  Unlink(gone);
  index_.erase(gone_key);
  free_.push_back(gone);
  changes->push_back({.key = gone_key, .tier = Tier::kSsd, .stored = false});
}

}  // namespace halfmoon::sim
