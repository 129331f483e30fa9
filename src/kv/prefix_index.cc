// SPDX-License-Identifier: Apache-2.0
#include "kv/prefix_index.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace halfmoon::kv {

PrefixIndex::PrefixIndex(PagePool* pool, const Options& options)
    : pool_(pool), block_size_(options.block_size), track_changes_(options.track_changes) {
  HM_CHECK(block_size_ > 0, "block_size " + std::to_string(block_size_));
  const auto num_pages = static_cast<size_t>(pool->num_pages());
  nodes_.reserve(num_pages);
  key_of_page_.resize(num_pages);
  tokens_of_page_.resize(num_pages * static_cast<size_t>(block_size_));
}

PrefixIndex::~PrefixIndex() {
  for (const auto& [key, node] : nodes_) pool_->Release(node.page);
}

const PrefixIndex::Node* PrefixIndex::Find(const BlockKey& parent, const BlockKey& key,
                                           std::span<const int32_t> tokens) const {
  const auto it = nodes_.find(key);
  if (it == nodes_.end() || it->second.parent != parent) return nullptr;
  const auto offset =
      static_cast<size_t>(ToIndex(it->second.page)) * static_cast<size_t>(block_size_);
  const std::span stored(tokens_of_page_.data() + offset, static_cast<size_t>(block_size_));
  return std::ranges::equal(stored, tokens) ? &it->second : nullptr;
}

PrefixHit PrefixIndex::Probe(const BlockKey& seed, std::span<const BlockKey> keys,
                             std::span<const int32_t> tokens) const {
  const auto block = static_cast<size_t>(block_size_);
  HM_CHECK(tokens.size() >= keys.size() * block, "fewer tokens than keys");
  PrefixHit hit;
  for (size_t i = 0; i < keys.size(); ++i) {
    const Node* node = Find(i == 0 ? seed : keys[i - 1], keys[i], tokens.subspan(i * block, block));
    if (node == nullptr) break;
    ++hit.blocks;
    if (!pool_->in_use(node->page)) ++hit.cached_pages;
  }
  return hit;
}

std::vector<PageRef> PrefixIndex::Match(const BlockKey& seed, std::span<const BlockKey> keys,
                                        std::span<const int32_t> tokens) {
  const auto blocks = static_cast<size_t>(Probe(seed, keys, tokens).blocks);
  std::vector<PageRef> pages;
  pages.reserve(blocks);
  for (size_t i = 0; i < blocks; ++i) pages.push_back(pool_->Hold(nodes_.at(keys[i]).page));
  return pages;
}

std::optional<PageRef> PrefixIndex::Insert(const BlockKey& seed, const BlockKey& parent,
                                           const BlockKey& key, std::span<const int32_t> tokens,
                                           PageRef* page) {
  HM_CHECK(tokens.size() == static_cast<size_t>(block_size_), "a block that is not full");
  if (nodes_.contains(key)) {
    const Node* node = Find(parent, key, tokens);
    if (node == nullptr) return std::nullopt;
    // Equal bits by construction, so the page computed twice can go.
    PageRef first = pool_->Hold(node->page);
    page->Reset();
    return first;
  }
  const bool is_first = parent == seed;
  if (!is_first) {
    const auto it = nodes_.find(parent);
    if (it == nodes_.end()) return std::nullopt;
    ++it->second.children;
  }
  const PageId id = page->page();
  pool_->Retain(id);
  nodes_.emplace(key, Node{.page = id, .parent = parent, .first = is_first});
  key_of_page_[static_cast<size_t>(ToIndex(id))] = key;
  std::ranges::copy(tokens,
                    tokens_of_page_.begin() + static_cast<ptrdiff_t>(ToIndex(id)) * block_size_);
  if (track_changes_) changes_.push_back({.key = key, .added = true});
  return std::move(*page);
}

std::optional<PageRef> PrefixIndex::Hold(const BlockKey& key) {
  const auto it = nodes_.find(key);
  if (it == nodes_.end()) return std::nullopt;
  return pool_->Hold(it->second.page);
}

std::optional<PageRef> PrefixIndex::Hold(const BlockKey& parent, const BlockKey& key,
                                         std::span<const int32_t> tokens) {
  const Node* node = Find(parent, key, tokens);
  if (node == nullptr) return std::nullopt;
  return pool_->Hold(node->page);
}

std::optional<PageRef> PrefixIndex::Allocate() {
  if (pool_->num_free() == 0 && !EvictOne()) return std::nullopt;
  return pool_->TryAllocate();
}

bool PrefixIndex::EvictOne() {
  if (pool_->num_cached() == 0) return false;
  do {
    if (EvictLeaf()) return true;
    // Every cached block has one behind it that is held.
  } while (UnpublishHeldLeaf());
  return false;
}

bool PrefixIndex::EvictLeaf() {
  // Sequences hold whole prefixes and let go of the last block first, so children stand before
  // their parents and the first look nearly always succeeds.
  for (std::optional<PageId> page = pool_->OldestCached(); page; page = pool_->NextCached(*page)) {
    const BlockKey key = key_of_page_[static_cast<size_t>(ToIndex(*page))];
    if (nodes_.at(key).children == 0) {
      Erase(key);
      return true;
    }
  }
  return false;
}

// Takes a held block with a cached one somewhere before it, and none behind it, out of the index.
// It is rare that there is no other way, so a look at every block is not too much.
bool PrefixIndex::UnpublishHeldLeaf() {
  for (const auto& [key, node] : nodes_) {
    if (node.children > 0 || !pool_->in_use(node.page)) continue;
    for (const Node* before = &node; !before->first;) {
      before = &nodes_.at(before->parent);
      if (pool_->in_use(before->page)) continue;
      const BlockKey leaf = key;
      Erase(leaf);
      return true;
    }
  }
  return false;
}

void PrefixIndex::Erase(const BlockKey& key) {
  const auto it = nodes_.find(key);
  const Node node = it->second;
  if (!node.first) --nodes_.at(node.parent).children;
  if (track_changes_) changes_.push_back({.key = key, .added = false});
  nodes_.erase(it);
  pool_->Release(node.page);
}

}  // namespace halfmoon::kv
