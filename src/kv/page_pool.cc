// SPDX-License-Identifier: Apache-2.0
#include "kv/page_pool.h"

#include <string>

#include "base/check.h"

namespace halfmoon::kv {

PageId PageRef::page() const {
  HM_CHECK(held(), "page() of an empty PageRef");
  return page_;
}

void PageRef::Reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Unhold(page_);
}

PagePool::PagePool(int32_t num_pages) {
  HM_CHECK(num_pages >= 0, "num_pages " + std::to_string(num_pages));
  pages_.resize(static_cast<size_t>(num_pages));
  free_.reserve(pages_.size());
  // Low ids come out first: page memory is touched from its start.
  for (int32_t i = num_pages - 1; i >= 0; --i) free_.push_back(i);
}

PagePool::~PagePool() {
  HM_CHECK(num_in_use() == 0, std::to_string(num_in_use()) + " pages are still held");
}

std::optional<PageRef> PagePool::TryAllocate() {
  if (free_.empty()) return std::nullopt;
  const PageId page{free_.back()};
  free_.pop_back();
  Page& state = At(page);
  state.free = false;
  state.holders = 1;
  return PageRef(this, page);
}

PageRef PagePool::Hold(PageId page) {
  Page& state = At(page);
  HM_CHECK(!state.free, "page " + std::to_string(ToIndex(page)) + " is free");
  if (state.holders == 0) RemoveCached(page);
  ++state.holders;
  return PageRef(this, page);
}

void PagePool::Retain(PageId page) {
  Page& state = At(page);
  HM_CHECK(state.holders > 0, "page " + std::to_string(ToIndex(page)) + " has no holder");
  HM_CHECK(!state.retained, "page " + std::to_string(ToIndex(page)) + " is retained already");
  state.retained = true;
}

void PagePool::Release(PageId page) {
  Page& state = At(page);
  HM_CHECK(state.retained, "page " + std::to_string(ToIndex(page)) + " is not retained");
  state.retained = false;
  if (state.holders == 0) {
    RemoveCached(page);
    state.free = true;
    free_.push_back(ToIndex(page));
  }
}

std::optional<PageId> PagePool::OldestCached() const {
  if (oldest_ == kNone) return std::nullopt;
  return PageId{oldest_};
}

std::optional<PageId> PagePool::NextCached(PageId page) const {
  const int32_t younger = At(page).younger;
  if (younger == kNone) return std::nullopt;
  return PageId{younger};
}

PagePool::Page& PagePool::At(PageId page) {
  HM_CHECK(ToIndex(page) >= 0 && ToIndex(page) < num_pages(),
           "page " + std::to_string(ToIndex(page)) + " of " + std::to_string(num_pages()));
  return pages_[static_cast<size_t>(ToIndex(page))];
}

const PagePool::Page& PagePool::At(PageId page) const {
  return const_cast<PagePool*>(this)->At(page);
}

void PagePool::Unhold(PageId page) {
  Page& state = At(page);
  HM_CHECK(state.holders > 0, "page " + std::to_string(ToIndex(page)) + " is freed twice");
  if (--state.holders > 0) return;
  if (state.retained) {
    AppendCached(page);
  } else {
    state.free = true;
    free_.push_back(ToIndex(page));
  }
}

void PagePool::AppendCached(PageId page) {
  Page& state = At(page);
  state.older = youngest_;
  state.younger = kNone;
  (youngest_ == kNone ? oldest_ : At(PageId{youngest_}).younger) = ToIndex(page);
  youngest_ = ToIndex(page);
  ++num_cached_;
}

void PagePool::RemoveCached(PageId page) {
  Page& state = At(page);
  (state.older == kNone ? oldest_ : At(PageId{state.older}).younger) = state.younger;
  (state.younger == kNone ? youngest_ : At(PageId{state.younger}).older) = state.older;
  state.older = kNone;
  state.younger = kNone;
  --num_cached_;
}

void ReleaseFromBack(std::vector<PageRef>* pages) {
  while (!pages->empty()) pages->pop_back();
}

}  // namespace halfmoon::kv
