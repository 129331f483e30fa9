// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

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

TEST(DefaultThreadCount, ThisMachine_IsAtLeastOne) {
  EXPECT_GE(DefaultThreadCount(), 1);
  EXPECT_LE(DefaultThreadCount(), CPU_SETSIZE);
}

}  // namespace
}  // namespace halfmoon
