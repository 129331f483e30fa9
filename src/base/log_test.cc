// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace halfmoon {
namespace {

TEST(InitLogging, Levels_AreSet) {
  ASSERT_TRUE(InitLogging("warning").ok());
  EXPECT_EQ(spdlog::default_logger()->level(), spdlog::level::warn);
  ASSERT_TRUE(InitLogging("off").ok());
  EXPECT_EQ(spdlog::default_logger()->level(), spdlog::level::off);
}

TEST(InitLogging, UnknownLevel_IsInvalid) {
  const Status status = InitLogging("loud");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(status.error().message().find("'loud'"), std::string::npos);
}

TEST(MonotonicClock, TwoReadings_DoNotGoBack) {
  const MonotonicClock clock;
  const TimeUs first = clock.NowUs();
  EXPECT_GE(clock.NowUs(), first);
}

TEST(ManualClock, Advance_MovesByThatMuch) {
  ManualClock clock;
  const TimeUs start = clock.NowUs();
  clock.AdvanceUs(250);
  EXPECT_EQ(clock.NowUs(), start + 250);
}

TEST(UnixTimeSeconds, Now_IsInThisCentury) {
  EXPECT_GT(UnixTimeSeconds(), int64_t{1'600'000'000});
  EXPECT_LT(UnixTimeSeconds(), int64_t{4'000'000'000});
}

}  // namespace
}  // namespace halfmoon
