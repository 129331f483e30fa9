// SPDX-License-Identifier: Apache-2.0
#include "net/timer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "net/raw_client.h"

namespace halfmoon::net {
namespace {

using std::chrono::milliseconds;

TEST(TimerService, After_RunsOnceNotEarly) {
  TimerService timers;
  Event fired;
  std::atomic<int> count{0};
  const auto start = std::chrono::steady_clock::now();
  timers.After(milliseconds(30), [&] {
    ++count;
    fired.Set();
  });
  ASSERT_TRUE(fired.Wait());
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(30));
  ::usleep(50'000);
  EXPECT_EQ(count, 1);
}

TEST(TimerService, Every_RunsUntilCancelled) {
  TimerService timers;
  std::atomic<int> count{0};
  Event enough;
  const TimerId id = timers.Every(milliseconds(2), [&] {
    if (++count >= 5) enough.Set();
  });
  ASSERT_TRUE(enough.Wait());
  EXPECT_TRUE(timers.Cancel(id));
  Event quiet;
  timers.Post([&] { quiet.Set(); });  // Same strand: whatever ran then has ended.
  ASSERT_TRUE(quiet.Wait());
  const int seen = count;
  ::usleep(30'000);
  EXPECT_EQ(count, seen);
  EXPECT_FALSE(timers.Cancel(id));
}

TEST(TimerService, CancelInsideOwnCallback_EndsPeriod) {
  TimerService timers;
  std::atomic<int> count{0};
  std::atomic<uint64_t> id{0};
  Event ran;
  timers.Post([&] {
    id = static_cast<uint64_t>(timers.Every(milliseconds(1), [&] {
      ++count;
      EXPECT_TRUE(timers.Cancel(TimerId{id.load()}));
      ran.Set();
    }));
  });
  ASSERT_TRUE(ran.Wait());
  ::usleep(20'000);
  EXPECT_EQ(count, 1);
}

TEST(TimerService, CancelBeforeDue_NeverRuns) {
  TimerService timers;
  std::atomic<bool> ran{false};
  EXPECT_TRUE(timers.Cancel(timers.After(milliseconds(20), [&] { ran = true; })));
  EXPECT_FALSE(timers.Cancel(TimerId::kNone));
  ::usleep(50'000);
  EXPECT_FALSE(ran);
}

TEST(TimerService, ThrowingCallback_DoesNotEndTheThread) {
  TimerService timers;
  Event ran;
  timers.Post([] { throw std::runtime_error("thrown on purpose"); });
  timers.Post([&] { ran.Set(); });
  EXPECT_TRUE(ran.Wait());
}

TEST(TimerService, Shutdown_RefusesAndEndsLongTimers) {
  Event posted;
  {
    TimerService timers;
    timers.After(std::chrono::hours(10), [] {});
    timers.After(milliseconds::max(), [] {});
    timers.Every(std::chrono::hours(10), [] {});
    timers.Post([&] { posted.Set(); });
    timers.Shutdown();
    timers.Shutdown();
    EXPECT_FALSE(timers.Post([] {}));
    EXPECT_EQ(timers.After(milliseconds(1), [] {}), TimerId::kNone);
  }  // Joins: would hang if a timer were left.
  EXPECT_TRUE(posted.is_set());
}

}  // namespace
}  // namespace halfmoon::net
