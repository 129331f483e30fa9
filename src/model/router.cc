// SPDX-License-Identifier: Apache-2.0
#include "model/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace halfmoon::model {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

/// NaN loses against everything, so that the order below stays an order.
float OrNever(float value) { return std::isnan(value) ? kNever : value; }

/// Sum of the two largest of a group's values.
float GroupScore(std::span<const float> values) {
  float first = kNever;
  float second = kNever;
  for (const float value : values) {
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  return values.size() == 1 ? first : first + second;
}

/// The positions of the `best.size()` largest values, largest first; of equal ones the lower.
void LargestOf(std::span<const float> values, std::span<int32_t> best) {
  // Insertion into a short sorted list: it has at most a few tens of entries, and most values fail
  // the first comparison.
  size_t count = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = values[i];
    if (count == best.size() && !(value > values[static_cast<size_t>(best[count - 1])])) continue;
    size_t at = count < best.size() ? count++ : count - 1;
    while (at > 0 && value > values[static_cast<size_t>(best[at - 1])]) {
      best[at] = best[at - 1];
      --at;
    }
    best[at] = static_cast<int32_t>(i);
  }
}

/// Puts the experts of all but the kept groups out of the running.
void DropGroups(const MoeDescription& moe, std::span<float> choice) {
  constexpr size_t kMaxGroups = 256;
  const auto groups = static_cast<size_t>(moe.num_groups);
  HM_CHECK(groups <= kMaxGroups);
  const size_t size = choice.size() / groups;
  float scores[kMaxGroups];
  int32_t kept[kMaxGroups];
  for (size_t g = 0; g < groups; ++g) scores[g] = GroupScore(choice.subspan(g * size, size));
  const std::span<int32_t> best(kept, static_cast<size_t>(moe.kept_groups));
  LargestOf({scores, groups}, best);
  for (size_t g = 0; g < groups; ++g) {
    if (std::ranges::find(best, static_cast<int32_t>(g)) != best.end()) continue;
    std::ranges::fill(choice.subspan(g * size, size), kNever);
  }
}

}  // namespace

void ChooseExperts(const MoeDescription& moe, std::span<const float> scores,
                   std::span<const float> bias, std::span<float> choice, std::span<int32_t> indices,
                   std::span<float> weights) {
  const size_t k = indices.size();
  HM_DCHECK(k <= scores.size());
  for (size_t e = 0; e < scores.size(); ++e) {
    choice[e] = OrNever(bias.empty() ? scores[e] : scores[e] + bias[e]);
  }
  if (moe.num_groups > 1) DropGroups(moe, choice);
  LargestOf(choice, indices);
  std::sort(indices.begin(), indices.end());
  float sum = moe.norm_epsilon;
  for (size_t i = 0; i < k; ++i) {
    weights[i] = scores[static_cast<size_t>(indices[i])];
    sum += weights[i];
  }
  for (float& weight : weights) {
    if (moe.normalise_weights) weight /= sum;
    weight *= moe.weight_scale;
  }
}

ExpertGroups::ExpertGroups(size_t max_choices, int num_experts)
    : range_(static_cast<size_t>(num_experts)),
      slot_token_(max_choices),
      token_slot_(max_choices) {}

void ExpertGroups::Group(std::span<const int32_t> expert_ids, int top_k,
                         std::span<const int32_t> order) {
  HM_CHECK(expert_ids.size() <= slot_token_.size());
  std::fill(range_.begin(), range_.end(), Range{});
  for (const int32_t e : expert_ids) ++range_[static_cast<size_t>(e)].end;
  int32_t next = 0;
  const size_t count = order.empty() ? range_.size() : order.size();
  for (size_t i = 0; i < count; ++i) {
    Range& range = range_[order.empty() ? i : static_cast<size_t>(order[i])];
    range.begin = next;
    next += range.end;
    range.end = range.begin;  // Grows as its slots are filled.
  }
  for (size_t i = 0; i < expert_ids.size(); ++i) {
    const int32_t slot = range_[static_cast<size_t>(expert_ids[i])].end++;
    slot_token_[static_cast<size_t>(slot)] = static_cast<int32_t>(i / static_cast<size_t>(top_k));
    token_slot_[i] = slot;
  }
}

}  // namespace halfmoon::model
