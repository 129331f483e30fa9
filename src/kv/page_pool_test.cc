// SPDX-License-Identifier: Apache-2.0
#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace halfmoon::kv {
namespace {

TEST(PagePool, AllPagesTaken_EachOnceThenNone) {
  PagePool pool(3);
  std::vector<PageRef> refs;
  std::set<PageId> ids;
  for (int i = 0; i < 3; ++i) {
    refs.push_back(*pool.TryAllocate());
    ids.insert(refs.back().page());
  }
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_FALSE(pool.TryAllocate().has_value());
  EXPECT_EQ(pool.num_in_use(), 3);
  ReleaseFromBack(&refs);
  EXPECT_EQ(pool.num_free(), 3);
}

TEST(PagePool, TwoHolders_FreeAfterTheLast) {
  PagePool pool(1);
  PageRef first = *pool.TryAllocate();
  PageRef second = pool.Hold(first.page());
  EXPECT_EQ(pool.num_holders(first.page()), 2);
  first.Reset();
  EXPECT_EQ(pool.num_free(), 0);
  second.Reset();
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_FALSE(second.held());
}

TEST(PagePool, RetainedPage_CachedUntilReleased) {
  PagePool pool(2);
  PageRef ref = *pool.TryAllocate();
  const PageId page = ref.page();
  pool.Retain(page);
  ref.Reset();
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.num_in_use(), 0);
  ref = pool.Hold(page);
  EXPECT_EQ(pool.num_cached(), 0);
  ref.Reset();
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(PagePool, CachedPages_StandInOrderOfLastUse) {
  PagePool pool(3);
  std::vector<PageRef> refs;
  std::vector<PageId> ids;
  for (int i = 0; i < 3; ++i) {
    refs.push_back(*pool.TryAllocate());
    ids.push_back(refs.back().page());
    pool.Retain(ids.back());
  }
  refs[1].Reset();
  refs[0].Reset();
  refs[2].Reset();
  EXPECT_EQ(*pool.OldestCached(), ids[1]);
  pool.Hold(ids[1]).Reset();  // used again: now the youngest
  EXPECT_EQ(*pool.OldestCached(), ids[0]);
  EXPECT_EQ(*pool.NextCached(ids[0]), ids[2]);
  EXPECT_EQ(*pool.NextCached(ids[2]), ids[1]);
  EXPECT_FALSE(pool.NextCached(ids[1]).has_value());
  for (PageId id : ids) pool.Release(id);
  EXPECT_FALSE(pool.OldestCached().has_value());
}

TEST(PageRef, MovedFrom_HoldsNothing) {
  PagePool pool(1);
  PageRef a = *pool.TryAllocate();
  PageRef b = std::move(a);
  EXPECT_FALSE(a.held());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(b.held());
  a = std::move(b);
  EXPECT_EQ(pool.num_in_use(), 1);
  a.Reset();
  EXPECT_EQ(pool.num_in_use(), 0);
}

using PagePoolDeathTest = ::testing::Test;

TEST(PagePoolDeathTest, ReleasedTwice_Dies) {
  EXPECT_DEATH(
      {
        PagePool pool(1);
        PageRef ref = *pool.TryAllocate();
        pool.Retain(ref.page());
        pool.Release(ref.page());
        pool.Release(ref.page());
      },
      "not retained");
}

TEST(PagePoolDeathTest, FreePageHeld_Dies) {
  EXPECT_DEATH(
      {
        PagePool pool(1);
        pool.Hold(PageId{0});
      },
      "is free");
}

TEST(PagePoolDeathTest, HolderOutlivesPool_Dies) {
  EXPECT_DEATH(
      {
        PageRef ref;
        PagePool pool(1);
        ref = *pool.TryAllocate();
      },
      "still held");
}

}  // namespace
}  // namespace halfmoon::kv
