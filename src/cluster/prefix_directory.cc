// SPDX-License-Identifier: Apache-2.0
#include "cluster/prefix_directory.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace halfmoon::cluster {
namespace {

constexpr int kShardBits = 16;
constexpr int kFingerprintBits = 44;
constexpr uint64_t kFingerprintMask = (uint64_t{1} << kFingerprintBits) - 1;
constexpr uint32_t kFirstCapacity = 8;
constexpr uint32_t kMaxShardEntries = 1u << 20;  // home positions are a 64-bit product
// Keys between one and the one whose entries, or shard, are asked for. A look-up waits for memory
// longer than for anything else.
constexpr size_t kEntriesAhead = 6;
constexpr size_t kShardAhead = 12;
constexpr uint32_t kLineEntries = 8;
constexpr size_t kSweptShards = 256;
constexpr size_t kSweptShared = 256;

uint64_t FingerprintOf(const kv::BlockKey& key) { return key.hash.low & kFingerprintMask; }
uint64_t IdOf(const kv::BlockKey& key) {
  return key.hash.low >> (64 - kShardBits) << kFingerprintBits | FingerprintOf(key);
}

uint64_t MakeEntry(uint64_t fingerprint, NodeSlot slot, uint64_t tiers) {
  return fingerprint << 20 | uint64_t{slot} << 4 | tiers << 1;
}
uint64_t Fingerprint(uint64_t entry) { return entry >> 20; }
NodeSlot Slot(uint64_t entry) { return static_cast<NodeSlot>(entry >> 4); }
uint64_t Tiers(uint64_t entry) { return entry >> 1 & 7; }
bool IsShared(uint64_t entry) { return (entry & 1) != 0; }
uint64_t TierBit(Tier tier) { return uint64_t{1} << static_cast<int>(tier); }

// Full at five sixths: a search for what is not there then looks at about 18 entries, which is
// three cache lines in a row.
bool IsFull(uint32_t count, uint32_t capacity) {
  return uint64_t{count} * 6 >= uint64_t{capacity} * 5;
}

uint32_t Home(uint64_t fingerprint, uint32_t capacity) {
  return static_cast<uint32_t>(fingerprint * capacity >> kFingerprintBits);
}
uint32_t Next(uint32_t at, uint32_t capacity) { return at + 1 == capacity ? 0 : at + 1; }

template <typename F>
void ForEachBit(uint64_t word, size_t index, F&& f) {
  for (; word != 0; word &= word - 1) {
    f(static_cast<NodeSlot>(index * 64 + static_cast<size_t>(std::countr_zero(word))));
  }
}
void SetBit(std::vector<uint64_t>* bits, NodeSlot slot) {
  (*bits)[slot / 64u] |= uint64_t{1} << (slot % 64u);
}
void ClearBit(std::vector<uint64_t>* bits, NodeSlot slot) {
  if (slot / 64u < bits->size()) (*bits)[slot / 64u] &= ~(uint64_t{1} << (slot % 64u));
}
bool HasBit(const std::vector<uint64_t>& bits, NodeSlot slot) {
  return slot / 64u < bits.size() && (bits[slot / 64u] >> (slot % 64u) & 1) != 0;
}

}  // namespace

PrefixDirectory::PrefixDirectory() : shards_(size_t{1} << kShardBits) {
  memory_bytes_ = shards_.size() * sizeof(Shard);
  Widen(0);
}

void PrefixDirectory::Widen(NodeSlot slot) {
  num_words_ = std::max<size_t>(num_words_, slot / 64u + 1);
  if (since_.size() >= num_words_ * 64) return;
  since_.resize(num_words_ * 64);
  by_slot_.resize(num_words_ * 64);
  for (size_t i = 0; i < by_slot_.size(); ++i) by_slot_[i].slot = static_cast<NodeSlot>(i);
  dropped_bits_.resize(num_words_);
  for (Bits& bits : here_) bits.resize(num_words_);
  for (Bits& bits : current_) bits.resize(num_words_);
}

bool PrefixDirectory::IsDropped(NodeSlot slot) const { return HasBit(dropped_bits_, slot); }

PrefixDirectory::Shard& PrefixDirectory::ShardOf(const kv::BlockKey& key) {
  return shards_[key.hash.low >> (64 - kShardBits)];
}

PrefixDirectory::Matches PrefixDirectory::Match(const Shard& shard, uint64_t fingerprint) const {
  Matches matches;
  if (shard.capacity == 0) return matches;
  for (uint32_t at = Home(fingerprint, shard.capacity); shard.entries[at] != 0;
       at = Next(at, shard.capacity)) {
    if (Fingerprint(shard.entries[at]) == fingerprint) {
      HM_CHECK(matches.count < kMaxEntries, "more entries of a key than are kept apart");
      matches.at[static_cast<size_t>(matches.count++)] = at;
    }
  }
  return matches;
}

void PrefixDirectory::Add(const kv::BlockKey& key, NodeSlot slot, Tier tier) {
  Widen(slot);
  HM_CHECK(!IsDropped(slot), "blocks for a node that has left");
  Shard& shard = ShardOf(key);
  const uint64_t fingerprint = FingerprintOf(key);
  const Matches matches = Match(shard, fingerprint);
  for (int i = 0; i < matches.count; ++i) {
    Entry& entry = shard.entries[matches.at[static_cast<size_t>(i)]];
    if (IsShared(entry)) {
      Bits& bits = shared_[shared_index_.at(IdOf(key))].nodes[static_cast<size_t>(tier)];
      if (bits.size() < num_words_) {
        memory_bytes_ += (num_words_ - bits.size()) * sizeof(uint64_t);
        bits.resize(num_words_);
      }
      SetBit(&bits, slot);
      return;
    }
    if (Slot(entry) == slot) {
      entry |= TierBit(tier) << 1;
      return;
    }
  }
  if (matches.count == kMaxEntries) {
    Share(&shard, key, matches);
    Add(key, slot, tier);
    return;
  }
  Insert(&shard, MakeEntry(fingerprint, slot, TierBit(tier)));
}

void PrefixDirectory::Remove(const kv::BlockKey& key, NodeSlot slot, Tier tier) {
  Shard& shard = ShardOf(key);
  const Matches matches = Match(shard, FingerprintOf(key));
  for (int i = 0; i < matches.count; ++i) {
    const uint32_t at = matches.at[static_cast<size_t>(i)];
    Entry& entry = shard.entries[at];
    if (IsShared(entry)) {
      const size_t index = shared_index_.at(IdOf(key));
      ClearBit(&shared_[index].nodes[static_cast<size_t>(tier)], slot);
      UnshareIfFew(index);
      return;
    }
    if (Slot(entry) != slot) continue;
    entry &= ~(TierBit(tier) << 1);
    if (Tiers(entry) == 0) Erase(&shard, at);
    return;
  }
}

void PrefixDirectory::Insert(Shard* shard, Entry entry) {
  if (IsFull(shard->count + 1, shard->capacity)) {
    // Only keys that somebody chose to lie in one shard get here; what is not kept is computed
    // again.
    if (shard->capacity >= kMaxShardEntries) return;
    Grow(shard);
  }
  uint32_t at = Home(Fingerprint(entry), shard->capacity);
  while (shard->entries[at] != 0) at = Next(at, shard->capacity);
  shard->entries[at] = entry;
  ++shard->count;
  ++num_entries_;
}

// Moves entries of the same run back over the hole, so that no search ends early and no marks of
// what has gone are left.
void PrefixDirectory::Erase(Shard* shard, uint32_t at) {
  const uint32_t capacity = shard->capacity;
  uint32_t hole = at;
  for (uint32_t next = Next(at, capacity); shard->entries[next] != 0; next = Next(next, capacity)) {
    const uint32_t home = Home(Fingerprint(shard->entries[next]), capacity);
    const uint32_t from_home = next >= home ? next - home : next + capacity - home;
    const uint32_t from_hole = next >= hole ? next - hole : next + capacity - hole;
    if (from_home < from_hole) continue;
    shard->entries[hole] = shard->entries[next];
    hole = next;
  }
  shard->entries[hole] = 0;
  --shard->count;
  --num_entries_;
}

void PrefixDirectory::Grow(Shard* shard) {
  Rebuild(shard, std::max(kFirstCapacity, shard->capacity + shard->capacity / 4));
}

void PrefixDirectory::Rebuild(Shard* shard, uint32_t capacity) {
  const std::unique_ptr<Entry[]> old = std::move(shard->entries);
  const uint32_t old_capacity = shard->capacity;
  shard->entries = std::make_unique<Entry[]>(capacity);
  shard->capacity = capacity;
  memory_bytes_ += (size_t{capacity} - old_capacity) * sizeof(Entry);
  for (uint32_t i = 0; i < old_capacity; ++i) {
    if (old[i] == 0) continue;
    uint32_t at = Home(Fingerprint(old[i]), capacity);
    while (shard->entries[at] != 0) at = Next(at, capacity);
    shard->entries[at] = old[i];
  }
}

// The entries of a key become one that says to look among the shared.
void PrefixDirectory::Share(Shard* shard, const kv::BlockKey& key, const Matches& matches) {
  size_t index = shared_.size();
  if (free_shared_.empty()) {
    shared_.emplace_back();
    memory_bytes_ += sizeof(Shared) + 4 * sizeof(uint64_t);  // with its place in the index
  } else {
    index = free_shared_.back();
    free_shared_.pop_back();
  }
  Shared& shared = shared_[index];
  shared.id = IdOf(key);
  shared.used = true;
  for (Bits& bits : shared.nodes) {
    bits.assign(num_words_, 0);
    memory_bytes_ += num_words_ * sizeof(uint64_t);
  }
  shared_index_.emplace(shared.id, index);
  for (int i = 0; i < matches.count; ++i) {
    const Entry entry = shard->entries[matches.at[static_cast<size_t>(i)]];
    for (size_t tier = 0; tier < kNumTiers; ++tier) {
      if ((Tiers(entry) >> tier & 1) != 0) SetBit(&shared.nodes[tier], Slot(entry));
    }
  }
  // The first stays, as the mark; erasing moves entries, so the others are looked up one by one.
  shard->entries[matches.at[0]] = Fingerprint(shard->entries[matches.at[0]]) << 20 | 1;
  for (int i = 1; i < matches.count; ++i) {
    const Matches left = Match(*shard, FingerprintOf(key));
    for (int j = 0; j < left.count; ++j) {
      const uint32_t at = left.at[static_cast<size_t>(j)];
      if (IsShared(shard->entries[at])) continue;
      Erase(shard, at);
      break;
    }
  }
}

// Back to entries when half as many nodes are left: not at one below the bound, where a block that
// comes and goes would move each time.
void PrefixDirectory::UnshareIfFew(size_t index) {
  Shared& shared = shared_[index];
  Bits any(num_words_);
  int nodes = 0;
  for (size_t w = 0; w < num_words_; ++w) {
    for (const Bits& bits : shared.nodes) any[w] |= w < bits.size() ? bits[w] : 0;
    nodes += std::popcount(any[w]);
    if (nodes > kMaxEntries / 2) return;
  }
  Shard& shard = shards_[shared.id >> kFingerprintBits];
  const uint64_t fingerprint = shared.id & kFingerprintMask;
  Erase(&shard, Match(shard, fingerprint).at[0]);
  for (size_t w = 0; w < num_words_; ++w) {
    ForEachBit(any[w], w, [&](NodeSlot slot) {
      uint64_t tiers = 0;
      for (size_t tier = 0; tier < kNumTiers; ++tier) {
        if (HasBit(shared.nodes[tier], slot)) tiers |= uint64_t{1} << tier;
      }
      Insert(&shard, MakeEntry(fingerprint, slot, tiers));
    });
  }
  for (Bits& bits : shared.nodes) {
    memory_bytes_ -= bits.size() * sizeof(uint64_t);
    bits = {};
  }
  shared.used = false;
  shared_index_.erase(shared.id);
  free_shared_.push_back(index);
}

void PrefixDirectory::DropNode(NodeSlot slot) {
  Widen(slot);
  if (IsDropped(slot)) return;
  dropped_.push_back(slot);
  SetBit(&dropped_bits_, slot);
  sweep_shard_ = 0;
  sweep_shared_ = 0;
}

void PrefixDirectory::Sweep() {
  if (dropped_.empty()) return;
  for (size_t i = 0; i < kSweptShards && sweep_shard_ < shards_.size(); ++i, ++sweep_shard_) {
    Shard& shard = shards_[sweep_shard_];
    uint32_t gone = 0;
    for (uint32_t at = 0; at < shard.capacity; ++at) {
      Entry& entry = shard.entries[at];
      if (entry == 0 || IsShared(entry) || !IsDropped(Slot(entry))) continue;
      entry = 0;
      ++gone;
    }
    if (gone == 0) continue;
    shard.count -= gone;
    num_entries_ -= gone;
    Rebuild(&shard, shard.capacity);
  }
  for (size_t i = 0; i < kSweptShared && sweep_shared_ < shared_.size(); ++i, ++sweep_shared_) {
    if (!shared_[sweep_shared_].used) continue;
    for (Bits& bits : shared_[sweep_shared_].nodes) {
      for (size_t w = 0; w < bits.size(); ++w) bits[w] &= ~dropped_bits_[w];
    }
    UnshareIfFew(sweep_shared_);
  }
  if (sweep_shard_ < shards_.size() || sweep_shared_ < shared_.size()) return;
  for (const NodeSlot slot : dropped_) ClearBit(&dropped_bits_, slot);
  dropped_.clear();
}

void PrefixDirectory::Lookup(const kv::BlockKey& key) {
  for (Bits& bits : here_) std::ranges::fill(bits, 0);
  const Shard& shard = ShardOf(key);
  const Matches matches = Match(shard, FingerprintOf(key));
  for (int i = 0; i < matches.count; ++i) {
    const Entry entry = shard.entries[matches.at[static_cast<size_t>(i)]];
    if (!IsShared(entry)) {
      if (IsDropped(Slot(entry))) continue;
      SetBit(&here_[static_cast<size_t>(std::countr_zero(Tiers(entry)))], Slot(entry));
      continue;
    }
    const Shared& shared = shared_[shared_index_.at(IdOf(key))];
    for (size_t w = 0; w < num_words_; ++w) {
      uint64_t taken = dropped_bits_[w];
      for (size_t tier = 0; tier < kNumTiers; ++tier) {
        const Bits& bits = shared.nodes[tier];
        const uint64_t word = w < bits.size() ? bits[w] & ~taken : 0;
        here_[tier][w] = word;
        taken |= word;
      }
    }
    return;
  }
}

void PrefixDirectory::Flush(NodeSlot slot, int tier, int32_t end) {
  by_slot_[slot].by_tier[static_cast<size_t>(tier)] += end - since_[slot];
  since_[slot] = end;
}

void PrefixDirectory::Prefetch(std::span<const kv::BlockKey> keys, size_t next) const {
  if (next + kShardAhead < keys.size()) {
    __builtin_prefetch(&shards_[keys[next + kShardAhead].hash.low >> (64 - kShardBits)]);
  }
  if (next + kEntriesAhead >= keys.size()) return;
  const kv::BlockKey& key = keys[next + kEntriesAhead];
  const Shard& shard = shards_[key.hash.low >> (64 - kShardBits)];
  if (shard.capacity == 0) return;
  const uint32_t home = Home(FingerprintOf(key), shard.capacity);
  __builtin_prefetch(&shard.entries[home]);
  if (home + kLineEntries < shard.capacity) {
    __builtin_prefetch(&shard.entries[home + kLineEntries]);
  }
}

// Only nodes whose tier changes from one block to the next cost anything, so a prefix that a
// thousand nodes hold is as quick to follow as one that a single node does.
std::span<const PrefixRun> PrefixDirectory::Find(std::span<const kv::BlockKey> keys) {
  found_.clear();
  for (Bits& bits : current_) std::ranges::fill(bits, 0);
  Bits started(num_words_);
  for (size_t k = 0; k <= keys.size(); ++k) {
    const auto block = static_cast<int32_t>(k);
    if (k < keys.size()) {
      Prefetch(keys, k);
      Lookup(keys[k]);
    } else {
      for (Bits& bits : here_) std::ranges::fill(bits, 0);
    }
    uint64_t any = 0;
    for (size_t w = 0; w < num_words_; ++w) {
      const uint64_t alive = current_[0][w] | current_[1][w] | current_[2][w];
      for (size_t tier = 0; tier < kNumTiers; ++tier) {
        const uint64_t now = k == 0 ? here_[tier][w] : here_[tier][w] & alive;
        ForEachBit(current_[tier][w] & ~now, w,
                   [&](NodeSlot slot) { Flush(slot, static_cast<int>(tier), block); });
        if (k == 0) {
          ForEachBit(now, w, [&](NodeSlot slot) {
            by_slot_[slot].by_tier = {};
            since_[slot] = 0;
          });
          started[w] |= now;
        }
        here_[tier][w] = now;
        any |= now;
      }
    }
    std::swap(here_, current_);
    if (any == 0) break;
  }
  for (size_t w = 0; w < num_words_; ++w) {
    ForEachBit(started[w], w, [&](NodeSlot slot) { found_.push_back(by_slot_[slot]); });
  }
  return found_;
}

}  // namespace halfmoon::cluster
