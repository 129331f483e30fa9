// SPDX-License-Identifier: Apache-2.0
#include "kv/block_catalog.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace halfmoon::kv {
namespace {

size_t Index(int32_t i) { return static_cast<size_t>(i); }
size_t Index(Tier tier) { return static_cast<size_t>(tier); }

}  // namespace

bool BlockCatalog::Restore(const BlockKey& key, Tier tier, SlotId slot) {
  HM_CHECK(ToIndex(slot) >= 0);
  std::vector<Slot>& slots = Of(tier).slots;
  if (slots.size() <= Index(ToIndex(slot))) slots.resize(Index(ToIndex(slot)) + 1);
  HM_CHECK(At(tier, slot).state == State::kAbsent);
  if (CopyOf(key, tier).has_value() || IsPutting(key, tier)) return false;
  MakeReady(key, tier, ToIndex(slot));
  return true;
}

void BlockCatalog::AddSlots(Tier tier, SlotId first, int32_t count) {
  HM_CHECK(ToIndex(first) >= 0 && count >= 0);
  TierState& state = Of(tier);
  const size_t end = Index(ToIndex(first)) + Index(count);
  if (state.slots.size() < end) state.slots.resize(end);
  // Low slots come out first.
  for (size_t i = end; i > Index(ToIndex(first)); --i) {
    if (state.slots[i - 1].state == State::kReady) continue;
    HM_CHECK(state.slots[i - 1].state == State::kAbsent,
             "slot " + std::to_string(i - 1) + " is there already");
    state.slots[i - 1].state = State::kFree;
    state.free.push_back(static_cast<int32_t>(i - 1));
  }
  state.num_slots += count;
}

int32_t BlockCatalog::Probe(std::span<const BlockKey> keys, TimeUs now_us) {
  size_t found = 0;
  for (; found < keys.size(); ++found) {
    const auto it = entries_.find(keys[found]);
    if (it == entries_.end()) break;
    if (std::ranges::all_of(it->second.ready, [](int32_t slot) { return slot == kNone; })) break;
    it->second.leased_until_us = now_us + options_.lease_us;
  }
  for (size_t i = found; i > 0; --i) Touch(entries_.at(keys[i - 1]));
  return static_cast<int32_t>(found);
}

bool BlockCatalog::IsPutting(const BlockKey& key, Tier tier) const {
  const auto it = entries_.find(key);
  return it != entries_.end() && it->second.writing[Index(tier)] != kNone;
}

std::optional<SlotId> BlockCatalog::BeginPut(const BlockKey& key, Tier tier, TimeUs now_us) {
  if (CopyOf(key, tier).has_value() || IsPutting(key, tier)) return std::nullopt;
  TierState& state = Of(tier);
  MakeRoom(tier, now_us);
  if (state.free.empty()) {
    ++state.stats.refusals;
    return std::nullopt;
  }
  const int32_t slot = state.free.back();
  state.free.pop_back();
  state.slots[Index(slot)] = {.key = key, .state = State::kWriting, .started_us = now_us};
  state.puts.push_back(slot);
  entries_[key].writing[Index(tier)] = slot;
  return SlotId{slot};
}

bool BlockCatalog::EndPut(Tier tier, SlotId slot, PutEnd end) {
  TierState& state = Of(tier);
  Slot& put = At(tier, slot);
  const bool discarded = put.state == State::kDiscarded;
  HM_CHECK(discarded || put.state == State::kWriting, "no put in progress");
  const BlockKey key = put.key;
  if (!discarded) {
    std::erase(state.puts, ToIndex(slot));
    entries_.at(key).writing[Index(tier)] = kNone;
  }
  if (end == PutEnd::kWritten && !discarded) {
    MakeReady(key, tier, ToIndex(slot));
    return true;
  }
  if (end == PutEnd::kBroken) {
    put.state = State::kBroken;
  } else {
    put.state = State::kFree;
    state.free.push_back(ToIndex(slot));
  }
  if (!discarded) ForgetIfEmpty(key);
  return false;
}

void BlockCatalog::DropStalePuts(TimeUs now_us) {
  for (const Tier tier : kTiers) {
    TierState& state = Of(tier);
    while (!state.puts.empty()) {
      const int32_t slot = state.puts.front();
      Slot& put = state.slots[Index(slot)];
      if (now_us - put.started_us < options_.put_timeout_us) break;
      state.puts.erase(state.puts.begin());
      put.state = State::kDiscarded;
      entries_.at(put.key).writing[Index(tier)] = kNone;
      ForgetIfEmpty(put.key);
      ++state.stats.stale_puts;
    }
  }
}

std::optional<SlotId> BlockCatalog::BeginRead(const BlockKey& key, Tier tier) {
  const std::optional<SlotId> slot = CopyOf(key, tier);
  if (!slot.has_value()) return std::nullopt;
  Touch(entries_.at(key));
  ++At(tier, *slot).readers;
  return slot;
}

void BlockCatalog::EndRead(Tier tier, SlotId slot, bool good) {
  Slot& read = At(tier, slot);
  HM_CHECK(read.readers > 0, "no read in progress");
  if (!good && read.state == State::kReady) RemoveCopy(tier, ToIndex(slot));
  if (--read.readers == 0 && read.state == State::kLeaving) {
    read.state = State::kFree;
    Of(tier).free.push_back(ToIndex(slot));
  }
}

void BlockCatalog::SetPin(const BlockKey& key, Pin pin) {
  const auto it = entries_.find(key);
  if (it != entries_.end()) it->second.pin = pin;
}

bool BlockCatalog::TakeChanges(Tier tier, int32_t most, CatalogChanges* changes) {
  TierState& state = Of(tier);
  for (int32_t i = 0; i < most && !state.changed.empty(); ++i) {
    const int32_t slot = state.changed.front();
    state.changed.pop_front();
    state.told[Index(slot)].waits = false;
    // A block that was told of this slot and has moved to another one is told of that one at once:
    // should it go before its turn came, nobody would know that it had been told.
    for (std::optional<SlotId> next = SlotId{slot}; next.has_value();) {
      next = Tell(tier, ToIndex(*next), changes);
    }
  }
  return !state.changed.empty();
}

// Where the block is now that the slot had when it was told last.
std::optional<SlotId> BlockCatalog::Tell(Tier tier, int32_t slot, CatalogChanges* changes) {
  TierState& state = Of(tier);
  Told& told = state.told[Index(slot)];
  const Slot& now = state.slots[Index(slot)];
  const bool ready = now.state == State::kReady;
  if (told.has_key && ready && told.key == now.key) return std::nullopt;
  const Told before = told;
  told.has_key = ready;
  if (ready) {
    told.key = now.key;
    changes->added.push_back(now.key);
  }
  if (!before.has_key) return std::nullopt;
  const std::optional<SlotId> moved = CopyOf(before.key, tier);
  if (!moved.has_value()) changes->removed.push_back(before.key);
  return moved;
}

bool BlockCatalog::ListTold(Tier tier, int32_t most, int32_t* next,
                            std::vector<BlockKey>* keys) const {
  const std::vector<Told>& told = Of(tier).told;
  for (int32_t i = 0; i < most && Index(*next) < told.size(); ++i, ++*next) {
    if (told[Index(*next)].has_key) keys->push_back(told[Index(*next)].key);
  }
  return Index(*next) < told.size();
}

bool BlockCatalog::IsNearlyFull(Tier tier) const {
  const TierState& state = Of(tier);
  const auto taken = static_cast<double>(state.num_slots) - static_cast<double>(state.free.size());
  return taken + 1.0 > options_.watermark * static_cast<double>(state.num_slots);
}

BlockCatalog::Slot& BlockCatalog::At(Tier tier, SlotId slot) {
  std::vector<Slot>& slots = Of(tier).slots;
  HM_CHECK(ToIndex(slot) >= 0 && Index(ToIndex(slot)) < slots.size(),
           "slot " + std::to_string(ToIndex(slot)) + " of " + std::to_string(slots.size()));
  return slots[Index(ToIndex(slot))];
}

std::optional<SlotId> BlockCatalog::CopyOf(const BlockKey& key, Tier tier) const {
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.ready[Index(tier)] == kNone) return std::nullopt;
  return SlotId{it->second.ready[Index(tier)]};
}

void BlockCatalog::Append(TierState* tier, int32_t slot) {
  Slot& added = tier->slots[Index(slot)];
  added.older = tier->youngest;
  added.younger = kNone;
  (tier->youngest == kNone ? tier->oldest : tier->slots[Index(tier->youngest)].younger) = slot;
  tier->youngest = slot;
}

void BlockCatalog::Unlink(TierState* tier, int32_t slot) {
  const Slot& gone = tier->slots[Index(slot)];
  (gone.older == kNone ? tier->oldest : tier->slots[Index(gone.older)].younger) = gone.younger;
  (gone.younger == kNone ? tier->youngest : tier->slots[Index(gone.younger)].older) = gone.older;
}

void BlockCatalog::Touch(const Entry& entry) {
  for (const Tier tier : kTiers) {
    const int32_t slot = entry.ready[Index(tier)];
    if (slot == kNone) continue;
    Unlink(&Of(tier), slot);
    Append(&Of(tier), slot);
  }
}

// Above the watermark a pass frees slots. Copies with a soft pin go only where without them there
// is no slot at all.
void BlockCatalog::MakeRoom(Tier tier, TimeUs now_us) {
  if (!IsNearlyFull(tier)) return;
  const TierState& state = Of(tier);
  const int32_t count =
      std::max(1, static_cast<int32_t>(options_.pass * static_cast<double>(state.num_slots)));
  EvictOldest(tier, count, Pin::kNone, now_us);
  if (state.free.empty()) EvictOldest(tier, 1, Pin::kSoft, now_us);
}

int32_t BlockCatalog::EvictOldest(Tier tier, int32_t count, Pin most, TimeUs now_us) {
  TierState& state = Of(tier);
  int32_t evicted = 0;
  for (int32_t slot = state.oldest; slot != kNone && evicted < count;) {
    const int32_t next = state.slots[Index(slot)].younger;
    const Entry& entry = entries_.at(state.slots[Index(slot)].key);
    if (entry.pin <= most && entry.leased_until_us <= now_us &&
        state.slots[Index(slot)].readers == 0) {
      RemoveCopy(tier, slot);
      ++evicted;
      ++state.stats.evictions;
    }
    slot = next;
  }
  return evicted;
}

void BlockCatalog::MakeReady(const BlockKey& key, Tier tier, int32_t slot) {
  TierState& state = Of(tier);
  state.slots[Index(slot)] = {.key = key, .state = State::kReady};
  entries_[key].ready[Index(tier)] = slot;
  Append(&state, slot);
  ++state.num_ready;
  NoteChange(&state, slot);
}

void BlockCatalog::RemoveCopy(Tier tier, int32_t slot) {
  TierState& state = Of(tier);
  Slot& gone = state.slots[Index(slot)];
  Unlink(&state, slot);
  --state.num_ready;
  NoteChange(&state, slot);
  entries_.at(gone.key).ready[Index(tier)] = kNone;
  ForgetIfEmpty(gone.key);
  if (gone.readers > 0) {
    gone.state = State::kLeaving;
  } else {
    gone.state = State::kFree;
    state.free.push_back(slot);
  }
}

void BlockCatalog::NoteChange(TierState* tier, int32_t slot) const {
  if (!options_.track_changes) return;
  if (tier->told.size() <= Index(slot)) tier->told.resize(tier->slots.size());
  if (std::exchange(tier->told[Index(slot)].waits, true)) return;
  tier->changed.push_back(slot);
}

void BlockCatalog::ForgetIfEmpty(const BlockKey& key) {
  const auto it = entries_.find(key);
  const auto none = [](int32_t slot) { return slot == kNone; };
  if (std::ranges::all_of(it->second.ready, none) &&
      std::ranges::all_of(it->second.writing, none)) {
    entries_.erase(it);
  }
}

}  // namespace halfmoon::kv
