// SPDX-License-Identifier: Apache-2.0
#include "base/bounded_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace halfmoon {
namespace {

using std::chrono::microseconds;

TEST(BoundedQueue, Items_LeaveInOrder) {
  BoundedQueue<int> queue(3);
  EXPECT_EQ(queue.capacity(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue.TryPush(i));
  EXPECT_EQ(queue.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(queue.TryPop(), i);
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueue, Full_RefusesUntilThereIsRoom) {
  BoundedQueue<int> queue(1);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_FALSE(queue.TryPush(2));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_TRUE(queue.TryPush(3));
}

TEST(BoundedQueue, Closed_DrainsThenEnds) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(2));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), std::nullopt);
  EXPECT_EQ(queue.PopFor(microseconds(1)), std::nullopt);
}

TEST(BoundedQueue, PopFor_EmptyQueue_TimesOut) {
  BoundedQueue<int> queue(1);
  EXPECT_EQ(queue.PopFor(microseconds(1000)), std::nullopt);
  EXPECT_TRUE(queue.TryPush(5));
  EXPECT_EQ(queue.PopFor(microseconds(1000)), 5);
}

TEST(BoundedQueue, Close_WakesAWaiter) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  std::atomic<bool> ended{false};
  std::thread waiter([&] { ended = !queue.Pop().has_value(); });
  queue.Close();
  waiter.join();
  EXPECT_TRUE(ended);
}

TEST(BoundedQueue, ManyProducersAndConsumers_LoseNothing) {
  constexpr int kProducers = 3;
  constexpr int kItems = 2000;
  BoundedQueue<int> queue(16);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> consumers, producers;
  for (int c = 0; c < 2; ++c) {
    consumers.emplace_back([&] {
      while (const auto item = queue.Pop()) sum += *item;
    });
  }
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&] {
      for (int i = 1; i <= kItems; ++i) {
        while (!queue.TryPush(i)) std::this_thread::yield();
      }
    });
  }
  for (std::thread& t : producers) t.join();
  queue.Close();
  for (std::thread& t : consumers) t.join();
  EXPECT_EQ(sum, int64_t{kProducers} * kItems * (kItems + 1) / 2);
}

}  // namespace
}  // namespace halfmoon
