// SPDX-License-Identifier: Apache-2.0
// Blocks that are kept here and that somebody else wants to copy: held where they are in pages,
// brought into pages where they are in the store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "engine/block_traffic.h"
#include "engine/event_stream.h"
#include "engine/kv_export.h"
#include "kv/block_key.h"
#include "kv/page_pool.h"
#include "sched/sequence_table.h"

namespace halfmoon::engine {

/// A look-up computes nothing, so it takes no part in plans and waits for no step but the one that
/// runs: it takes pages that nobody holds and reports blocks one by one as they come. It ends where
/// a block is missing, does not come, or finds no page; pages that it has reported stay until the
/// export is released. Engine thread only.
class BlockLookups {
 public:
  /// Both outlive it. base: page memory.
  BlockLookups(sched::SequenceTable* table, BlockTraffic* traffic, std::byte* base,
               size_t page_bytes, int32_t block_size, int num_layers)
      : table_(table),
        traffic_(traffic),
        base_(base),
        page_bytes_(page_bytes),
        block_size_(static_cast<size_t>(block_size)),
        num_layers_(num_layers) {}

  /// ids: of the prompt whose blocks kv_export wants, behind `seed`. The id is nobody else's.
  void Begin(sched::SeqId id, std::shared_ptr<KvExport> kv_export,
             std::shared_ptr<EventStream> stream, const kv::BlockKey& seed,
             std::vector<int32_t> ids);
  /// Whether the load is that of a look-up, which then has taken notice.
  bool Take(const BlockTraffic::Progress& progress);
  /// Lets go of what has been released or cancelled.
  void Drop();
  /// Ends all with the error.
  void EndAll(const Error& error);

  /// Blocks reported that were in pages.
  uint64_t num_page_hits() const { return num_page_hits_; }

 private:
  struct Lookup {
    std::shared_ptr<KvExport> kv_export;
    std::shared_ptr<EventStream> stream;
    kv::BlockKey seed;
    std::vector<int32_t> ids;
    std::vector<kv::BlockKey> keys;              // of all blocks up to the last that is wanted
    std::vector<kv::PageRef> pages;              // of the wanted ones
    std::vector<std::optional<kv::Tier>> tiers;  // of the pages; none: were there
    std::vector<size_t> missing;                 // indices of pages that are loaded
    size_t arrived = 0;                          // of missing
    size_t reported = 0;                         // of pages
    bool loading = false;                        // somebody writes to pages
    bool ended = false;                          // and told so
  };

  sched::SequenceTable::Block BlockAt(const Lookup& lookup, size_t index) const;
  void FindBlocks(Lookup* lookup, size_t count);
  size_t CountKept(const Lookup& lookup, const std::vector<bool>& here) const;
  void Publish(Lookup* lookup, size_t index);
  void Report(Lookup* lookup);
  void End(Lookup* lookup, FinishReason reason, std::optional<Error> error = std::nullopt) const;

  sched::SequenceTable* const table_;
  BlockTraffic* const traffic_;
  std::byte* const base_;
  const size_t page_bytes_;
  const size_t block_size_;
  const int num_layers_;
  std::map<sched::SeqId, Lookup> lookups_;
  size_t num_loaded_ = 0;  // pages taken for blocks of the store
  uint64_t num_page_hits_ = 0;
};

}  // namespace halfmoon::engine
