// SPDX-License-Identifier: Apache-2.0
// The choice of experts from gate logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/description.h"

namespace halfmoon::model {

/// One token's choice (models.md 0: Softmax routing, noaux_tc). `scores` are those of all E
/// experts: softmax or sigmoid of the gate logits. The K experts with the largest score + bias are
/// chosen (ties: the lower expert id), of the kept groups only where there are groups, and listed
/// in ascending expert id; a group counts as the sum of its two largest. Weights are the scores
/// without bias, divided by their sum + epsilon and scaled as `moe` says. bias: [E] or empty;
/// choice: scratch of E floats; indices and weights hold K entries.
void ChooseExperts(const MoeDescription& moe, std::span<const float> scores,
                   std::span<const float> bias, std::span<float> choice, std::span<int32_t> indices,
                   std::span<float> weights);

/// The (token, choice) pairs of a batch as slots grouped by expert, tokens ascending within an
/// expert, so that each expert's rows are one product.
class ExpertGroups {
 public:
  ExpertGroups() = default;
  /// Room for max_choices = T·K pairs over num_experts experts.
  ExpertGroups(size_t max_choices, int num_experts);

  /// expert_ids: [T, K] chosen experts, T·K at most max_choices. Experts' slots follow each other
  /// as listed in `order`, which names each chosen expert once; ascending where it is empty.
  void Group(std::span<const int32_t> expert_ids, int top_k, std::span<const int32_t> order = {});

  int64_t begin(size_t expert) const { return range_[expert].begin; }
  int64_t end(size_t expert) const { return range_[expert].end; }
  const int32_t* slot_token() const { return slot_token_.data(); }  ///< [T K] token of each slot
  const int32_t* token_slot() const { return token_slot_.data(); }  ///< [T, K] slot of each choice

 private:
  struct Range {
    int32_t begin = 0;
    int32_t end = 0;
  };
  std::vector<Range> range_;  // [E]
  std::vector<int32_t> slot_token_;
  std::vector<int32_t> token_slot_;
};

}  // namespace halfmoon::model
