// SPDX-License-Identifier: Apache-2.0
// For tests: guesses what the toy model would choose, wrong as often as a test likes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/drafter.h"
#include "engine/toy_model.h"

namespace halfmoon::engine {

/// Guesses greedily; of 100 guesses about `wrong_percent` are another token, decided by the tokens
/// before.
class ToyDrafter final : public Drafter {
 public:
  ToyDrafter(int32_t vocab_size, int32_t wrong_percent)
      : vocab_size_(vocab_size), wrong_percent_(wrong_percent) {}

  void Propose(std::span<DraftJob> jobs) override {
    for (DraftJob& job : jobs) {
      std::vector<int32_t> ids(job.ids.begin(), job.ids.end());
      while (job.tokens.size() < static_cast<size_t>(job.max_tokens)) {
        int32_t token = ToyModel::GreedyToken(ids, vocab_size_);
        if (Dice(ids) < wrong_percent_) token = (token + 1) % vocab_size_;
        ids.push_back(token);
        job.tokens.push_back(token);
      }
    }
  }

 private:
  static int32_t Dice(std::span<const int32_t> ids) {
    uint32_t hash = 2166136261u;
    for (const int32_t id : ids) hash = (hash ^ static_cast<uint32_t>(id)) * 16777619u;
    return static_cast<int32_t>((hash >> 8) % 100);
  }

  const int32_t vocab_size_;
  const int32_t wrong_percent_;
};

}  // namespace halfmoon::engine
