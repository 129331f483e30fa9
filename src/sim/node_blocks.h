// SPDX-License-Identifier: Apache-2.0
// The blocks that a simulated node keeps, in DRAM and on SSD.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cluster/node.h"
#include "kv/block_catalog.h"
#include "kv/block_key.h"

namespace halfmoon::sim {

/// A block that came to a tier, or went from it.
struct BlockChange {
  kv::BlockKey key;
  cluster::Tier tier{};
  bool stored = false;
};

/// What a node's store does with its catalog, and the catalog is the store's own. A block goes to
/// the DRAM pool and, where there is one, to the SSD; each tier frees what was used longest ago. Of
/// a request, the first block counts as used last, so that the end of a prefix goes before its
/// beginning. No put or read takes time here: that is the simulator's matter.
class NodeBlocks {
 public:
  struct Options {
    int32_t dram_blocks = 0;
    int32_t ssd_blocks = 0;
    kv::CatalogOptions catalog;
    bool lose_slot = false;  ///< for tests: the first put of Use never ends
  };
  explicit NodeBlocks(const Options& options);

  /// nullopt: it is not there.
  std::optional<cluster::Tier> TierOf(const kv::BlockKey& key) const;
  /// All of them are there from now on, as far as there is room; appends what changed.
  void Use(std::span<const kv::BlockKey> keys, TimeUs now, std::vector<BlockChange>* changes);
  /// How many leading ones are there; they stay for a while (CatalogOptions::lease_us).
  int32_t FindPrefix(std::span<const kv::BlockKey> keys, TimeUs now);
  void Clear();
  /// Everything that is there, as changes of a node that had nothing.
  void List(std::vector<BlockChange>* changes) const;

  /// Slots that are neither free nor ready; 0 between calls, or one is lost.
  int32_t num_lost() const;
  int32_t num_ready(kv::Tier tier) const { return catalog_->num_ready(tier); }

 private:
  /// False where it is not there.
  bool Read(const kv::BlockKey& key, kv::Tier tier);
  void Put(const kv::BlockKey& key, kv::Tier tier, TimeUs now);

  const Options options_;
  std::optional<kv::BlockCatalog> catalog_;
  kv::CatalogChanges told_;
  bool lost_slot_ = false;
};

}  // namespace halfmoon::sim
