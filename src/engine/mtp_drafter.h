// SPDX-License-Identifier: Apache-2.0
// Guesses from the model's own draft layer (multi-token prediction).
//
// The layer reads, for each position, the model's hidden state and the token after it, and keeps KV
// of its own, which is one more layer of the sequence's pages: cached prefixes, preemption and
// eviction work for it as for all other layers. Rows are computed at the end of the step that
// computed their hidden states, before blocks are published, when the token after them is known.
// The last slot of a block depends on the token after the block, which another sequence with the
// same prefix may not share; and the last row of a prompt that is only computed has no such token.
// Such a slot is then a little beside the truth. It costs acceptance, never a token.
#pragma once

#include <map>
#include <vector>

#include "engine/drafter.h"
#include "model/model.h"

namespace halfmoon::engine {

/// The first guess comes with the rows of a step; further ones feed the layer its own output, one
/// pass a round for all sequences. A sampled request's guesses are drawn from the draft layer's
/// distribution with the random number that the token itself will be drawn with, which makes both
/// agree more often than independent draws would.
class MtpDrafter final : public Drafter {
 public:
  /// The model outlives it and has a draft layer. Every Forward of it is followed by a Learn.
  explicit MtpDrafter(model::Model* model);
  void Propose(std::span<DraftJob> jobs) override;
  bool Learn(std::span<const ComputedRows> rows) override;
  void Forget(sched::SeqId id) override { ready_.erase(id); }

 private:
  // What the last Learn knows of a sequence's next token.
  struct Ready {
    size_t known = 0;  // ids.size() then
    int32_t token = 0;
    std::vector<float> hidden;  // [H] output of the draft layer, to be fed back
  };
  void Extend(std::span<DraftJob* const> jobs);

  model::Model* const model_;
  const size_t hidden_dim_;
  Sampler sampler_;
  std::map<sched::SeqId, Ready> ready_;
  // Buffers.
  std::vector<model::MtpChunk> chunks_;
  std::vector<DraftJob*> open_;
};

}  // namespace halfmoon::engine
