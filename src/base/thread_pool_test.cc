// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace halfmoon {
namespace {

TEST(ThreadPool, ParallelFor_RunsEachIndexOnce) {
  for (const int num_threads : {1, 2, 4, 7}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{1000}}) {
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> thread_in_range{true};
      pool.ParallelFor(count, [&](size_t i, int thread) {
        runs[i].fetch_add(1);
        if (thread < 0 || thread >= num_threads) thread_in_range = false;
      });
      for (const auto& n : runs) EXPECT_EQ(n.load(), 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
}

TEST(ThreadPool, ParallelFor_ResultsAreVisibleAfterwards) {
  ThreadPool pool(3);
  std::vector<int64_t> squares(512);
  int64_t expected = 0;
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(squares.size(),
                     [&](size_t i, int) { squares[i] = round + static_cast<int64_t>(i); });
    expected = int64_t{512} * round + 511 * 512 / 2;
    ASSERT_EQ(std::accumulate(squares.begin(), squares.end(), int64_t{0}), expected) << round;
  }
}

TEST(ThreadPool, ParallelFor_AfterWorkersSlept_WakesThem) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::atomic<int> sum{0};
    pool.ParallelFor(100, [&](size_t i, int) { sum += static_cast<int>(i); });
    EXPECT_EQ(sum.load(), 4950);
  }
}

TEST(ThreadPool, Destroyed_WithoutOrRightAfterWork_Joins) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool idle(3);
    ThreadPool used(3);
    std::atomic<int> runs{0};
    used.ParallelFor(8, [&](size_t, int) { ++runs; });
    EXPECT_EQ(runs.load(), 8);
  }
}

ThreadLayout Layout(const std::vector<int>& threads) {
  ThreadLayout layout;
  for (const int count : threads) {
    for (int i = 0; i < count; ++i) layout.seats.push_back({.shard = layout.shards.size()});
    layout.shards.push_back({.num_threads = count});
  }
  return layout;
}

TEST(ThreadPool, Shards_EachIndexOnceWhateverTheEnds) {
  for (const std::vector<int>& threads : {std::vector<int>{1, 1}, {2, 1}, {1, 2, 1, 3}}) {
    ThreadPool pool(Layout(threads));
    const size_t shards = threads.size();
    ASSERT_EQ(pool.num_shards(), shards);
    for (int round = 0; round < 300; ++round) {
      const auto count = static_cast<size_t>(round);
      std::vector<std::atomic<int>> runs(count);
      pool.ParallelFor(count, [&](size_t i, int) { runs[i].fetch_add(1); });
      // Everything in one shard, its neighbours have nothing.
      std::vector<size_t> ends(shards, count);
      for (size_t s = 0; s < static_cast<size_t>(round) % shards; ++s) ends[s] = 0;
      pool.ParallelForShards(ends, [&](size_t i, int) { runs[i].fetch_add(1); });
      for (const auto& n : runs) ASSERT_EQ(n.load(), 2) << round;
    }
  }
}

TEST(ThreadPool, ShardBegin_InProportionToThreads) {
  const ThreadPool pool(Layout({1, 3}));
  EXPECT_EQ(pool.ShardBegin(16, 0), 0u);
  EXPECT_EQ(pool.ShardBegin(16, 1), 4u);
  EXPECT_EQ(pool.ShardBegin(16, 2), 16u);
  EXPECT_EQ(pool.ShardBegin(1, 1), 0u);
}

// The caller begins with its own shard. The worker may find the caller's shard open before its own,
// but once it has begun with its own it stays there to the end.
TEST(ThreadPool, Shards_OwnIndicesFirstThenThoseOfOthers) {
  ThreadPool pool(Layout({1, 1}));
  for (int round = 0; round < 100; ++round) {
    std::array<std::vector<size_t>, 2> taken;
    pool.ParallelFor(8, [&](size_t i, int thread) {
      taken[static_cast<size_t>(thread)].push_back(i);
      // A turn for the other thread, where the two share a core.
      std::this_thread::yield();
    });
    EXPECT_EQ(taken[0].size() + taken[1].size(), 8u);
    EXPECT_TRUE(std::ranges::is_sorted(taken[0])) << ::testing::PrintToString(taken[0]);
    const auto own = std::ranges::find_if(taken[1], [](size_t i) { return i >= 4; });
    const auto others = std::find_if(own, taken[1].end(), [](size_t i) { return i < 4; });
    EXPECT_TRUE(std::all_of(others, taken[1].end(), [](size_t i) { return i < 4; }))
        << ::testing::PrintToString(taken[1]);
  }
}

TEST(ThreadPool, PinnedSeats_ThreadsRunThere) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ASSERT_EQ(::sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &allowed)) ++cpu;
  ThreadLayout layout = Layout({2});
  for (ThreadSeat& seat : layout.seats) seat.cpus = {cpu};
  ThreadPool pool(layout);
  std::atomic<int> elsewhere{0};
  std::thread caller([&] {
    pool.SeatCaller();
    pool.ParallelFor(1000, [&](size_t, int) { elsewhere += ::sched_getcpu() != cpu ? 1 : 0; });
  });
  caller.join();
  EXPECT_EQ(elsewhere.load(), 0);
  // A cpu that this machine does not have is no reason to stop.
  layout.seats[1].cpus = {CPU_SETSIZE - 1};
  ThreadPool nowhere(layout);
  std::atomic<int> runs{0};
  nowhere.ParallelFor(10, [&](size_t, int) { ++runs; });
  EXPECT_EQ(runs.load(), 10);
}

TEST(DefaultThreadCount, ThisMachine_IsAtLeastOne) {
  EXPECT_GE(DefaultThreadCount(), 1);
  EXPECT_LE(DefaultThreadCount(), CPU_SETSIZE);
}

}  // namespace
}  // namespace halfmoon
