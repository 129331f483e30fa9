// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/transfer_meter.h"

#include <array>
#include <cstdio>

#include "hub/hub.h"

namespace halfmoon::app {
namespace {

// Long enough to calm the figure down, short enough to follow a line that changes.
constexpr TimeUs kWindowUs = 10'000'000;
// Bounds the samples: one in so long is enough.
constexpr TimeUs kSampleUs = 100'000;
constexpr TimeUs kFirstRateUs = 500'000;

}  // namespace

TransferMeter::TransferMeter(uint64_t begin_bytes, TimeUs begin_us)
    : samples_{{.time_us = begin_us, .bytes = begin_bytes}} {}

void TransferMeter::Update(uint64_t done_bytes, TimeUs now_us) {
  if (done_bytes < samples_.back().bytes) samples_.clear();
  const bool replace =
      samples_.size() > 1 && now_us - samples_[samples_.size() - 2].time_us < kSampleUs;
  if (replace) samples_.pop_back();
  samples_.push_back({.time_us = now_us, .bytes = done_bytes});
  while (samples_.size() > 2 && now_us - samples_.front().time_us > kWindowUs) {
    samples_.pop_front();
  }
}

double TransferMeter::bytes_per_s() const {
  const Sample& first = samples_.front();
  const Sample& last = samples_.back();
  if (last.time_us - first.time_us < kFirstRateUs) return 0.0;
  return static_cast<double>(last.bytes - first.bytes) * 1e6 /
         static_cast<double>(last.time_us - first.time_us);
}

std::string TransferMeter::Text(uint64_t total_bytes) const {
  const uint64_t done = samples_.back().bytes;
  const double share =
      total_bytes == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total_bytes);
  std::array<char, 16> percent;
  std::snprintf(percent.data(), percent.size(), "%3.0f %%", 100.0 * share);
  std::string text = std::string(percent.data()) + " of " + hub::SizeText(total_bytes);
  const double rate = bytes_per_s();
  if (rate < 1.0 || done >= total_bytes) return text;
  text += ", " + hub::SizeText(static_cast<uint64_t>(rate)) + "/s, " +
          DurationText(static_cast<double>(total_bytes - done) / rate) + " left";
  return text;
}

std::string DurationText(double seconds) {
  constexpr double kLongest = 1e9;
  const auto whole = static_cast<int64_t>(seconds < kLongest ? seconds + 0.5 : kLongest);
  const auto two = [](int64_t large, const char* large_unit, int64_t small,
                      const char* small_unit) {
    return std::to_string(large) + large_unit +
           (small > 0 ? " " + std::to_string(small) + small_unit : "");
  };
  if (whole < 60) return std::to_string(whole) + " s";
  if (whole < 3600) return two(whole / 60, " min", whole % 60, " s");
  return two(whole / 3600, " h", whole % 3600 / 60, " min");
}

}  // namespace halfmoon::app
