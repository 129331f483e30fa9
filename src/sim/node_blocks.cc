// SPDX-License-Identifier: Apache-2.0
#include "sim/node_blocks.h"

#include <limits>
#include <utility>

#include "base/check.h"

namespace halfmoon::sim {
namespace {

constexpr int32_t kAll = std::numeric_limits<int32_t>::max();

cluster::Tier ToClusterTier(kv::Tier tier) {
  return tier == kv::Tier::kDram ? cluster::Tier::kDram : cluster::Tier::kSsd;
}

kv::CatalogOptions Tracking(kv::CatalogOptions options) {
  options.track_changes = true;
  return options;
}

}  // namespace

NodeBlocks::NodeBlocks(const Options& options) : options_(options) { Clear(); }

void NodeBlocks::Clear() {
  catalog_.emplace(Tracking(options_.catalog));
  catalog_->AddSlots(kv::Tier::kDram, kv::SlotId{0}, options_.dram_blocks);
  catalog_->AddSlots(kv::Tier::kDisk, kv::SlotId{0}, options_.ssd_blocks);
}

std::optional<cluster::Tier> NodeBlocks::TierOf(const kv::BlockKey& key) const {
  for (const kv::Tier tier : kv::kTiers) {
    if (catalog_->Has(key, tier)) return ToClusterTier(tier);
  }
  return std::nullopt;
}

int32_t NodeBlocks::FindPrefix(std::span<const kv::BlockKey> keys, TimeUs now) {
  return catalog_->Probe(keys, now);
}

bool NodeBlocks::Read(const kv::BlockKey& key, kv::Tier tier) {
  const std::optional<kv::SlotId> slot = catalog_->BeginRead(key, tier);
  if (slot.has_value()) catalog_->EndRead(tier, *slot, /*good=*/true);
  return slot.has_value();
}

void NodeBlocks::Put(const kv::BlockKey& key, kv::Tier tier, TimeUs now) {
  const std::optional<kv::SlotId> slot = catalog_->BeginPut(key, tier, now);
  if (!slot.has_value()) return;  // no slot can be freed
  if (options_.lose_slot && !std::exchange(lost_slot_, true)) return;
  HM_CHECK(catalog_->EndPut(tier, *slot, kv::BlockCatalog::PutEnd::kWritten),
           "a put that took no time was discarded");
}

void NodeBlocks::Use(std::span<const kv::BlockKey> keys, TimeUs now,
                     std::vector<BlockChange>* changes) {
  if (options_.dram_blocks == 0) return;
  for (size_t i = keys.size(); i-- > 0;) {
    const kv::BlockKey& key = keys[i];
    if (!Read(key, kv::Tier::kDram)) {
      Read(key, kv::Tier::kDisk);
      Put(key, kv::Tier::kDram, now);
    }
    if (options_.ssd_blocks > 0 && !catalog_->Has(key, kv::Tier::kDisk)) {
      Put(key, kv::Tier::kDisk, now);
    }
  }
  for (const kv::Tier tier : kv::kTiers) {
    told_.added.clear();
    told_.removed.clear();
    catalog_->TakeChanges(tier, kAll, &told_);
    for (const kv::BlockKey& key : told_.added) {
      changes->push_back({.key = key, .tier = ToClusterTier(tier), .stored = true});
    }
    for (const kv::BlockKey& key : told_.removed) {
      changes->push_back({.key = key, .tier = ToClusterTier(tier), .stored = false});
    }
  }
}

void NodeBlocks::List(std::vector<BlockChange>* changes) const {
  std::vector<kv::BlockKey> keys;
  for (const kv::Tier tier : kv::kTiers) {
    keys.clear();
    int32_t next = 0;
    catalog_->ListTold(tier, kAll, &next, &keys);
    for (const kv::BlockKey& key : keys) {
      changes->push_back({.key = key, .tier = ToClusterTier(tier), .stored = true});
    }
  }
}

int32_t NodeBlocks::num_lost() const {
  int32_t lost = 0;
  for (const kv::Tier tier : kv::kTiers) {
    lost += catalog_->num_slots(tier) - catalog_->num_free(tier) - catalog_->num_ready(tier);
  }
  return lost;
}

}  // namespace halfmoon::sim
