// SPDX-License-Identifier: Apache-2.0
// Finds the longest prefix of a prompt whose KV is already in pages.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/block_key.h"
#include "kv/page_pool.h"

namespace halfmoon::kv {

/// How much of a prompt the index can serve.
struct PrefixHit {
  int32_t blocks = 0;
  int32_t cached_pages =
      0;  ///< of these, pages that nobody holds now; taking them leaves fewer to evict
};

/// A tree of sealed (full) blocks, addressed by their chained keys. A key is trusted as far as 128
/// bits go, and the tokens of each block are compared as well, so that a collision, made or found,
/// never hands out someone else's KV.
///
/// The index holds no page: it marks pages as retained, so that they stay when their last holder
/// goes, and evicts from those that nobody holds, longest unused first and a child before its
/// parent. Engine thread only. The pool outlives the index.
class PrefixIndex {
 public:
  struct Options {
    int32_t block_size = 0;      ///< above 0
    bool track_changes = false;  ///< changes() tells of blocks that come and go
  };
  /// A block that was published or evicted.
  struct Change {
    BlockKey key;
    bool added = false;
  };

  PrefixIndex(PagePool* pool, const Options& options);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;
  ~PrefixIndex();

  /// keys[i] names block i of `tokens`. Requires tokens.size() >= keys.size() * block_size.
  PrefixHit Probe(const BlockKey& seed, std::span<const BlockKey> keys,
                  std::span<const int32_t> tokens) const;
  /// As Probe, and holds the pages found, in order.
  std::vector<PageRef> Match(const BlockKey& seed, std::span<const BlockKey> keys,
                             std::span<const int32_t> tokens);

  /// Publishes a computed full block whose parent is `parent` (the seed for a first block) and
  /// returns the page that stands for it from now on. The first page put for a key wins: where the
  /// block is already there, the caller gets that page and `page` is let go. Empty where the block
  /// cannot be published (its parent is not in the index, or the key belongs to other tokens); then
  /// `page` stays with the caller untouched.
  std::optional<PageRef> Insert(const BlockKey& seed, const BlockKey& parent, const BlockKey& key,
                                std::span<const int32_t> tokens, PageRef* page);

  /// Holds the page of a published block; nullopt where it is not in the index (any more).
  std::optional<PageRef> Hold(const BlockKey& key);
  /// The same where the block has this parent (the seed for a first block) and these tokens.
  std::optional<PageRef> Hold(const BlockKey& parent, const BlockKey& key,
                              std::span<const int32_t> tokens);

  /// A free page, evicting a cached block if there has to be; nullopt when every page is held.
  /// Where blocks are held without those before them, to be copied, and nothing else can go, these
  /// are not published any longer; whoever holds them keeps them.
  std::optional<PageRef> Allocate();

  /// In order, since ForgetChanges.
  const std::vector<Change>& changes() const { return changes_; }
  void ForgetChanges() { changes_.clear(); }

  int32_t num_blocks() const { return static_cast<int32_t>(nodes_.size()); }

 private:
  struct Node {
    PageId page{};
    BlockKey parent;
    bool first = false;  // its parent is a seed, which is no node
    int32_t children = 0;
  };

  const Node* Find(const BlockKey& parent, const BlockKey& key,
                   std::span<const int32_t> tokens) const;
  bool EvictOne();
  bool EvictLeaf();
  bool UnpublishHeldLeaf();
  void Erase(const BlockKey& key);

  PagePool* const pool_;
  const int32_t block_size_;
  const bool track_changes_;
  std::vector<Change> changes_;
  std::unordered_map<BlockKey, Node> nodes_;
  // By page id: what a retained page holds.
  std::vector<BlockKey> key_of_page_;
  std::vector<int32_t> tokens_of_page_;
};

}  // namespace halfmoon::kv
