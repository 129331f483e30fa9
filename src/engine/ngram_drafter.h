// SPDX-License-Identifier: Apache-2.0
// Guesses that a sequence goes on as it did the last time it was at this point: quotes, code that
// is edited, lists. Needs no model and no memory.
#pragma once

#include "engine/drafter.h"

namespace halfmoon::engine {

/// Finds the longest earlier occurrence of the last tokens, the latest of equally long ones, and
/// proposes what followed it. Occurrences of fewer than `min_match` tokens are chance.
/// Cost: one pass over the last 64 Ki tokens.
class NgramDrafter final : public Drafter {
 public:
  explicit NgramDrafter(int32_t min_match) : min_match_(min_match) {}
  void Propose(std::span<DraftJob> jobs) override;

 private:
  const int32_t min_match_;
};

}  // namespace halfmoon::engine
