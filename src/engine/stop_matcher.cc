// SPDX-License-Identifier: Apache-2.0
#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace halfmoon::engine {
namespace {

// Length of the longest end of `text` that is a beginning of `stop`, but not all of it.
size_t OverlapLength(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

std::string StopMatcher::Push(std::string_view text) {
  if (matched_) return {};
  held_ += text;
  size_t start = std::string::npos;
  size_t end = std::string::npos;
  for (const std::string& stop : stop_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (std::pair(at + stop.size(), at) < std::pair(end, start)) {
      start = at;
      end = at + stop.size();
    }
  }
  if (end != std::string::npos) {
    matched_ = true;
    return std::exchange(held_, {}).substr(0, include_stop_ ? end : start);
  }
  size_t hold = 0;
  for (const std::string& stop : stop_) hold = std::max(hold, OverlapLength(held_, stop));
  std::string ready = held_.substr(0, held_.size() - hold);
  held_.erase(0, ready.size());
  return ready;
}

std::string StopMatcher::Finish() { return std::exchange(held_, {}); }

}  // namespace halfmoon::engine
