// SPDX-License-Identifier: Apache-2.0
#include "engine/ngram_drafter.h"

#include <algorithm>

namespace halfmoon::engine {
namespace {

// 20 microseconds of looking at each step.
constexpr size_t kWindow = 64 << 10;
// Longer matches are not better ones, and a text that repeats itself would make each look
// quadratic.
constexpr size_t kLongestMatch = 16;

// How many tokens before `end` equal the last ones of `ids`.
size_t MatchBefore(std::span<const int32_t> ids, size_t end) {
  const size_t most = std::min(kLongestMatch, end);
  size_t match = 0;
  while (match < most && ids[end - 1 - match] == ids[ids.size() - 1 - match]) ++match;
  return match;
}

}  // namespace

void NgramDrafter::Propose(std::span<DraftJob> jobs) {
  for (DraftJob& job : jobs) {
    const std::span ids = job.ids.last(std::min(job.ids.size(), kWindow));
    size_t longest = static_cast<size_t>(min_match_) - 1;
    size_t follows = ids.size();
    for (size_t end = ids.size() - 1; end > longest && longest < kLongestMatch; --end) {
      const size_t match = MatchBefore(ids, end);
      if (match <= longest) continue;
      longest = match;
      follows = end;
    }
    // What follows may run into the end: a text with a period goes on with that period.
    for (int32_t i = 0; follows < ids.size() && i < job.max_tokens; ++i) {
      const size_t at = follows + static_cast<size_t>(i);
      job.tokens.push_back(at < ids.size() ? ids[at] : job.tokens[at - ids.size()]);
    }
  }
}

}  // namespace halfmoon::engine
