// SPDX-License-Identifier: Apache-2.0
#include "engine/depth_policy.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace halfmoon::engine {
namespace {

constexpr double kNewest = 0.125;  // weight of the newest time at a point
constexpr double kOutlier = 2.0;   // a time counts as at most so many times what was known
// The best of many noisy estimates looks better than it is: eight lists decoded together lost 4 %
// where 3 % was enough.
constexpr double kWorthwhile = 1.05;
constexpr int64_t kForgetAfter = 128;
constexpr int32_t kExact = 16;  // counts below have a point each, then four share a doubling

size_t PointOf(int32_t count, size_t points) {
  if (count < kExact) return static_cast<size_t>(std::max(count, 0));
  const double doublings = std::log2(static_cast<double>(count) / kExact);
  return std::min(static_cast<size_t>(kExact) + static_cast<size_t>(4.0 * doublings), points - 1);
}

}  // namespace

void CostCurve::Observe(int32_t count, double seconds) {
  if (!(seconds > 0.0)) return;
  Point& point = points_[PointOf(count, points_.size())];
  const bool known = IsFresh(point);
  point.observed = ++observations_;
  if (!known) {
    point.count = static_cast<double>(count);
    point.seconds = seconds;
    return;
  }
  point.count += kNewest * (count - point.count);
  point.seconds += kNewest * (std::min(seconds, kOutlier * point.seconds) - point.seconds);
}

bool CostCurve::IsFresh(const Point& point) const {
  return point.observed > 0 && observations_ - point.observed < kForgetAfter;
}

double CostCurve::At(int32_t count) const {
  const Point* below = nullptr;
  const Point* above = nullptr;
  for (const Point& point : points_) {
    if (!IsFresh(point)) continue;
    if (point.count <= count) {
      below = &point;
    } else if (above == nullptr) {
      above = &point;
    }
  }
  if (below != nullptr && above != nullptr) {
    const double part = (count - below->count) / (above->count - below->count);
    return below->seconds + part * (above->seconds - below->seconds);
  }
  if (below != nullptr) {
    const double more = (count - below->count) / std::max(1.0, below->count);
    return below->seconds * (1.0 + marginal_ * more);
  }
  // In proportion, which is the least it can be, so that whoever weighs the smaller count against
  // what is known tries it and finds out.
  return above != nullptr ? above->seconds * count / above->count : 0.0;
}

void Acceptance::Observe(int32_t accepted, bool rejected) {
  for (int32_t i = 0; i < accepted; ++i) estimate_ += weight_ * (1.0 - estimate_);
  if (rejected) estimate_ -= weight_ * estimate_;
}

void ChooseDepths(const DepthCosts& costs, std::span<DepthCandidate> candidates) {
  std::vector<double> gains;  // expected tokens from the next guess of each
  for (DepthCandidate& candidate : candidates) {
    candidate.depth = 0;
    gains.push_back(candidate.most > 0 ? candidate.acceptance : 0.0);
  }
  if (candidates.empty()) return;
  int32_t tokens = costs.other_tokens + static_cast<int32_t>(candidates.size());
  double expected = static_cast<double>(candidates.size());
  // The first step goes without guesses, so that there is something to compare with.
  if (costs.step.At(tokens) <= 0.0) return;
  const auto rate = [&](int32_t rounds) {
    return expected / (costs.step.At(tokens) + costs.draft.At(rounds));
  };
  double best_rate = kWorthwhile * rate(0);
  std::vector<int32_t> best(candidates.size(), 0);
  // The likeliest guess first: whatever their number, these are the best ones to make.
  int32_t rounds = 0;
  for (int32_t guesses = 0; guesses < costs.budget_tokens; ++guesses) {
    const auto likeliest = std::ranges::max_element(gains);
    if (*likeliest <= 0.0) break;
    const auto at = static_cast<size_t>(likeliest - gains.begin());
    DepthCandidate& candidate = candidates[at];
    expected += *likeliest;
    ++tokens;
    rounds = std::max(rounds, ++candidate.depth);
    *likeliest = candidate.depth < candidate.most ? *likeliest * candidate.acceptance : 0.0;
    const double with = rate(rounds);
    if (with <= best_rate) continue;
    best_rate = with;
    for (size_t i = 0; i < candidates.size(); ++i) best[i] = candidates[i].depth;
  }
  for (size_t i = 0; i < candidates.size(); ++i) candidates[i].depth = best[i];
}

}  // namespace halfmoon::engine
