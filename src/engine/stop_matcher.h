// SPDX-License-Identifier: Apache-2.0
// Finds stop strings in text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfmoon::engine {

/// The result does not depend on where the pieces are cut: the match that ends first counts, and of
/// those the longest. One thread at a time.
class StopMatcher {
 public:
  /// Requires strings that are not empty.
  StopMatcher(std::vector<std::string> stop, bool include_stop)
      : stop_(std::move(stop)), include_stop_(include_stop) {}

  /// Adds text and returns what is final now: all but the longest end that could begin a stop
  /// string. After a match: the text in front of it (with include_stop up to its end); what comes
  /// later is ignored.
  std::string Push(std::string_view text);
  /// The end of the text: what was held back.
  std::string Finish();

  bool matched() const { return matched_; }

 private:
  const std::vector<std::string> stop_;
  const bool include_stop_;
  std::string held_;  // shorter than the longest stop string
  bool matched_ = false;
};

}  // namespace halfmoon::engine
