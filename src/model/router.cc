// SPDX-License-Identifier: Apache-2.0
#include "model/router.h"

#include <algorithm>

#include "base/check.h"

namespace halfmoon::model {

void ChooseExperts(std::span<const float> probabilities, bool normalise, std::span<int32_t> indices,
                   std::span<float> weights) {
  const size_t k = indices.size();
  HM_DCHECK(k <= probabilities.size());
  // Insertion into a short sorted list: K is at most a few tens, and most experts fail the first
  // comparison.
  size_t count = 0;
  for (size_t e = 0; e < probabilities.size(); ++e) {
    const float p = probabilities[e];
    if (count == k && !(p > probabilities[static_cast<size_t>(indices[k - 1])])) continue;
    size_t at = count < k ? count++ : k - 1;
    while (at > 0 && p > probabilities[static_cast<size_t>(indices[at - 1])]) {
      indices[at] = indices[at - 1];
      --at;
    }
    indices[at] = static_cast<int32_t>(e);
  }
  std::sort(indices.begin(), indices.end());
  float sum = 0.0f;
  for (size_t i = 0; i < k; ++i) {
    weights[i] = probabilities[static_cast<size_t>(indices[i])];
    sum += weights[i];
  }
  if (!normalise) return;
  for (float& weight : weights) weight /= sum;
}

ExpertGroups::ExpertGroups(size_t max_choices, int num_experts)
    : begin_(static_cast<size_t>(num_experts) + 1),
      slot_token_(max_choices),
      token_slot_(max_choices) {}

void ExpertGroups::Group(std::span<const int32_t> expert_ids, int top_k) {
  HM_CHECK(expert_ids.size() <= slot_token_.size());
  std::fill(begin_.begin(), begin_.end(), 0);
  for (const int32_t e : expert_ids) ++begin_[static_cast<size_t>(e) + 1];
  for (size_t e = 1; e < begin_.size(); ++e) begin_[e] += begin_[e - 1];
  // begin_[e] serves as the next free slot of e, which leaves it at the begin of e + 1; shifted
  // back after.
  for (size_t i = 0; i < expert_ids.size(); ++i) {
    const int32_t slot = begin_[static_cast<size_t>(expert_ids[i])]++;
    slot_token_[static_cast<size_t>(slot)] = static_cast<int32_t>(i / static_cast<size_t>(top_k));
    token_slot_[i] = slot;
  }
  for (size_t e = begin_.size() - 1; e > 0; --e) begin_[e] = begin_[e - 1];
  begin_[0] = 0;
}

}  // namespace halfmoon::model
