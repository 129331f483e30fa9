// SPDX-License-Identifier: Apache-2.0
#include "engine/row_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace halfmoon::engine {
namespace {

// Compiler vectors, because -O2 leaves a maximum over floats scalar: one SSE or NEON register each,
// and four of them at a time, to hide the latency of a maximum.
typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t LaneFlags __attribute__((vector_size(16)));
constexpr size_t kWidth = sizeof(Lanes) / sizeof(float);
constexpr size_t kUnroll = 4;

// Values a block: short enough to stay in the L1 cache for the second look at the best block.
constexpr size_t kBlock = 1024;

}  // namespace

RowMax FindMax(std::span<const float> row) {
  size_t best_block = 0;
  float best = -std::numeric_limits<float>::infinity();
  for (size_t start = 0; start < row.size(); start += kBlock) {
    const std::span block = row.subspan(start, std::min(kBlock, row.size() - start));
    Lanes lane_max[kUnroll];
    LaneFlags lane_nan[kUnroll] = {};
    for (Lanes& lanes : lane_max) lanes = Lanes{} - std::numeric_limits<float>::infinity();
    size_t i = 0;
    for (; i + kUnroll * kWidth <= block.size(); i += kUnroll * kWidth) {
      for (size_t u = 0; u < kUnroll; ++u) {
        Lanes x;
        std::memcpy(&x, block.data() + i + u * kWidth, sizeof(x));
        lane_max[u] = x > lane_max[u] ? x : lane_max[u];
        lane_nan[u] |= x != x;
      }
    }
    float block_max = -std::numeric_limits<float>::infinity();
    bool has_nan = false;
    for (size_t lane = 0; lane < kUnroll * kWidth; ++lane) {
      block_max = std::max(block_max, lane_max[lane / kWidth][lane % kWidth]);
      has_nan = has_nan || lane_nan[lane / kWidth][lane % kWidth] != 0;
    }
    for (; i < block.size(); ++i) {
      block_max = std::max(block_max, block[i]);
      has_nan = has_nan || block[i] != block[i];
    }
    if (has_nan) {
      const auto nan = std::ranges::find_if(block, [](float x) { return x != x; });
      return {.not_a_number =
                  static_cast<int32_t>(start + static_cast<size_t>(nan - block.begin()))};
    }
    if (block_max > best) {
      best = block_max;
      best_block = start;
    }
  }
  const auto at = std::find(row.begin() + static_cast<ptrdiff_t>(best_block), row.end(), best);
  return {.value = best, .index = static_cast<int32_t>(at - row.begin())};
}

TokenEvent DescribeToken(std::span<const float> logits, int32_t id, int32_t num_top) {
  const double max = FindMax(logits).value;
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  const double log_sum = max + std::log(sum);
  const auto logprob = [&](int32_t of) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(of)]) - log_sum);
  };
  TokenEvent event{.id = id, .logprob = logprob(id)};
  if (num_top <= 0) return event;
  // At most twenty, so keeping them sorted is cheaper than any selection.
  std::vector<Logprob>& top = event.top;
  const auto most = std::min(static_cast<size_t>(num_top), logits.size());
  top.reserve(most + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (top.size() == most && !(logits[i] > top.back().logprob)) continue;
    const auto place =
        std::ranges::find_if(top, [&](const Logprob& other) { return logits[i] > other.logprob; });
    top.insert(place, {.id = static_cast<int32_t>(i), .logprob = logits[i]});
    if (top.size() > most) top.pop_back();
  }
  for (Logprob& entry : top) entry.logprob = logprob(entry.id);
  return event;
}

}  // namespace halfmoon::engine
