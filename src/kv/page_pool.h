// SPDX-License-Identifier: Apache-2.0
// Who holds which page. Ids and counts only; the bytes live in store::PageMemory.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace halfmoon::kv {

/// One slot of page memory, in [0, num_pages).
enum class PageId : int32_t {};

constexpr int32_t ToIndex(PageId page) { return static_cast<int32_t>(page); }

class PagePool;

/// Holding one is the pin, its destructor the unpin. Move-only; the pool outlives it.
class PageRef {
 public:
  PageRef() = default;
  PageRef(PageRef&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), page_(other.page_) {}
  PageRef& operator=(PageRef&& other) noexcept {
    if (this != &other) {
      Reset();
      pool_ = std::exchange(other.pool_, nullptr);
      page_ = other.page_;
    }
    return *this;
  }
  PageRef(const PageRef&) = delete;
  PageRef& operator=(const PageRef&) = delete;
  ~PageRef() { Reset(); }

  bool held() const { return pool_ != nullptr; }
  /// Requires held().
  PageId page() const;
  void Reset();

 private:
  friend class PagePool;
  PageRef(PagePool* pool, PageId page) : pool_(pool), page_(page) {}

  PagePool* pool_ = nullptr;
  PageId page_{};
};

/// Every page is in exactly one state: free, in use (at least one PageRef), or cached (no PageRef,
/// kept because the prefix index can still find it). Cached pages stand in the order in which they
/// lost their last holder, which is the order of eviction. Engine thread only.
class PagePool {
 public:
  /// Requires num_pages >= 0.
  explicit PagePool(int32_t num_pages);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  /// Requires that no PageRef is left.
  ~PagePool();

  /// A free page, held once; nullopt when none is free (cached pages are not touched).
  std::optional<PageRef> TryAllocate();
  /// One more holder of a page in use or cached.
  PageRef Hold(PageId page);

  /// From now on the page becomes cached, not free, when its last holder goes. Requires in use, not
  /// retained.
  void Retain(PageId page);
  /// Undoes Retain; a cached page becomes free at once. Requires retained.
  void Release(PageId page);

  int32_t num_holders(PageId page) const { return At(page).holders; }
  bool in_use(PageId page) const { return num_holders(page) > 0; }
  bool retained(PageId page) const { return At(page).retained; }

  /// The cached page that has been without a holder for longest; nullopt when none is cached.
  std::optional<PageId> OldestCached() const;
  /// The next younger cached page. Requires that `page` is cached.
  std::optional<PageId> NextCached(PageId page) const;

  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_cached() const { return num_cached_; }
  int32_t num_in_use() const { return num_pages() - num_free() - num_cached(); }

 private:
  friend class PageRef;
  static constexpr int32_t kNone = -1;
  struct Page {
    int32_t holders = 0;
    int32_t older = kNone;  // neighbours in the list of cached pages
    int32_t younger = kNone;
    bool retained = false;
    bool free = true;
  };

  Page& At(PageId page);
  const Page& At(PageId page) const;
  void Unhold(PageId page);
  void AppendCached(PageId page);
  void RemoveCached(PageId page);

  std::vector<Page> pages_;
  std::vector<int32_t> free_;  // last in, first out: recently used memory is warm
  int32_t oldest_ = kNone;
  int32_t youngest_ = kNone;
  int32_t num_cached_ = 0;
};

/// Lets go of the pages of one sequence, last block first, which is the order the prefix index
/// wants to evict in.
void ReleaseFromBack(std::vector<PageRef>* pages);

}  // namespace halfmoon::kv
