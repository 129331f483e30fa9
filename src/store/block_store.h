// SPDX-License-Identifier: Apache-2.0
// The seam between an engine's pages and wherever else KV blocks are: tiers of this node (DRAM
// pool, SSD) or another node. Bytes are whole pages; what they mean is in their key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv/block_catalog.h"
#include "kv/block_key.h"
#include "store/store_stats.h"

namespace halfmoon::store {

/// Names one block that was asked for or offered, chosen by the caller; comes back with the event.
enum class BlockTag : uint64_t {};

/// A block to bring into a page.
struct BlockFetch {
  BlockTag tag{};
  kv::BlockKey key;
  std::span<std::byte> page;  ///< the store's to write until the event; whole page
};

/// A block to keep a copy of.
struct BlockOffer {
  BlockTag tag{};
  kv::BlockKey key;
  std::span<const std::byte> page;  ///< neither changes nor goes away until the event
};

/// A fetch or an offer has ended. An offer that fails costs nothing but the copy; a fetch that
/// fails leaves any bytes in its page, and its block is computed instead.
struct BlockEvent {
  BlockTag tag{};
  Status status;  ///< fetch: kNotFound, kIo, kCorrupt, kUnavailable, kDeadlineExceeded, kCancelled
  std::optional<kv::Tier> tier;  ///< a fetch that succeeded: where the block was, if in a tier
};

/// Somewhere to get the blocks of a sequence from. Functions are called by the engine thread and do
/// not block; work happens elsewhere.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  /// How many leading `keys` can be fetched, as far as is known: a fetch may still fail. Blocks
  /// that are found are kept for a while (a lease), so that a fetch soon after finds them too.
  virtual int32_t Probe(std::span<const kv::BlockKey> keys) = 0;
  /// About how long it takes to fetch these blocks, by what fetches took so far; 0: not known, and
  /// fetching is tried.
  virtual double FetchUs([[maybe_unused]] std::span<const kv::BlockKey> keys) { return 0.0; }
  /// Starts fetches; each ends with one event, in any order.
  virtual void Fetch(std::span<const BlockFetch> blocks) = 0;
  /// Fetches that have not ended end soon, with kCancelled or as they would have. Their pages are
  /// the source's until then.
  virtual void Cancel(std::span<const BlockTag> tags) = 0;
  /// Appends what has ended since the last call.
  virtual void Poll(std::vector<BlockEvent>* events) = 0;
  /// `wake` runs, on any thread, when there is something to poll. Set once, before the first fetch;
  /// what it refers to outlives the source or is shared.
  virtual void SetWake(std::function<void()> wake) = 0;
};

/// A source that keeps what it is given.
class BlockStore : public BlockSource {
 public:
  /// Whether an offer of this block would be of use: it is not kept yet, nor being written.
  virtual bool Wants(const kv::BlockKey& key) = 0;
  /// Starts to keep a block; ends with one event. The first offer of a key wins.
  virtual void Offer(const BlockOffer& block) = 0;
  /// Of any thread.
  virtual StoreStats Stats() const { return {}; }
  /// As of kv::BlockCatalog, for one listener at most; of any thread, and never for longer than it
  /// takes to look at `most` slots. Nothing where the store does not track changes.
  virtual bool TakeChanges([[maybe_unused]] kv::Tier tier, [[maybe_unused]] int32_t most,
                           [[maybe_unused]] kv::CatalogChanges* changes) {
    return false;
  }
  virtual bool ListTold([[maybe_unused]] kv::Tier tier, [[maybe_unused]] int32_t most,
                        [[maybe_unused]] int32_t* next,
                        [[maybe_unused]] std::vector<kv::BlockKey>* keys) const {
    return false;
  }
};

}  // namespace halfmoon::store
