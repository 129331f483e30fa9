// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/transfer_meter.h"

#include <gtest/gtest.h>

namespace halfmoon::app {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr TimeUs kSecond = 1'000'000;

TEST(TransferMeter, RateAndTimeLeft_AreThoseOfTheLastSeconds) {
  TransferMeter meter(/*begin_bytes=*/100 * kMiB, /*begin_us=*/5 * kSecond);
  EXPECT_EQ(meter.Text(400 * kMiB), " 25 % of 400 MiB");  // What was here has no rate.
  meter.Update(101 * kMiB, 5 * kSecond + 100'000);
  EXPECT_EQ(meter.bytes_per_s(), 0.0);  // Too early to say.
  for (int second = 1; second <= 20; ++second) {
    meter.Update((100 + 10 * static_cast<uint64_t>(second)) * kMiB, (5 + second) * kSecond);
  }
  EXPECT_DOUBLE_EQ(meter.bytes_per_s(), 10.0 * kMiB);
  EXPECT_EQ(meter.Text(400 * kMiB), " 75 % of 400 MiB, 10.0 MiB/s, 10 s left");
  // A line that slows down is noticed within the window, whatever came before.
  for (int second = 21; second <= 40; ++second) {
    meter.Update((280 + static_cast<uint64_t>(second)) * kMiB, (5 + second) * kSecond);
  }
  EXPECT_DOUBLE_EQ(meter.bytes_per_s(), 1.0 * kMiB);
}

TEST(TransferMeter, ManyUpdates_AndASecondBeginning) {
  TransferMeter meter(0, 0);
  for (int i = 1; i <= 100'000; ++i) {
    meter.Update(static_cast<uint64_t>(i) * 1024, i * TimeUs{100});
  }
  EXPECT_NEAR(meter.bytes_per_s(), 10240.0 * 1000, 1024.0 * 1000);
  meter.Update(0, 11 * kSecond);  // The server began anew.
  EXPECT_EQ(meter.bytes_per_s(), 0.0);
  EXPECT_EQ(meter.Text(0), "100 % of 0 B");
}

TEST(DurationText, Durations_AreReadable) {
  EXPECT_EQ(DurationText(0.4), "0 s");
  EXPECT_EQ(DurationText(59.4), "59 s");
  EXPECT_EQ(DurationText(60), "1 min");
  EXPECT_EQ(DurationText(125), "2 min 5 s");
  EXPECT_EQ(DurationText(7800), "2 h 10 min");
  EXPECT_EQ(DurationText(1e300), "277777 h 46 min");
}

}  // namespace
}  // namespace halfmoon::app
