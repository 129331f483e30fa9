// SPDX-License-Identifier: Apache-2.0
// The choice of experts from gate logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace halfmoon::model {

/// One token's choice. `probabilities` is softmax of the gate logits over all E experts; the K
/// largest are chosen (ties: the lower expert id), listed in ascending expert id, with their
/// probabilities as weights, divided by their sum when `normalise` (models.md 0, Softmax routing).
/// indices and weights hold K <= E entries.
void ChooseExperts(std::span<const float> probabilities, bool normalise, std::span<int32_t> indices,
                   std::span<float> weights);

/// The (token, choice) pairs of a batch as slots grouped by expert, tokens ascending within an
/// expert, so that each expert's rows are one product.
class ExpertGroups {
 public:
  ExpertGroups() = default;
  /// Room for max_choices = T·K pairs over num_experts experts.
  ExpertGroups(size_t max_choices, int num_experts);

  /// expert_ids: [T, K] chosen experts, T·K at most max_choices.
  void Group(std::span<const int32_t> expert_ids, int top_k);

  int64_t begin(size_t expert) const { return begin_[expert]; }
  int64_t end(size_t expert) const { return begin_[expert + 1]; }
  const int32_t* slot_token() const { return slot_token_.data(); }  ///< [T K] token of each slot
  const int32_t* token_slot() const { return token_slot_.data(); }  ///< [T, K] slot of each choice

 private:
  std::vector<int32_t> begin_;  // [E + 1]
  std::vector<int32_t> slot_token_;
  std::vector<int32_t> token_slot_;
};

}  // namespace halfmoon::model
