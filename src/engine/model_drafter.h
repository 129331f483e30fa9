// SPDX-License-Identifier: Apache-2.0
// Guesses from a smaller model with the same vocabulary.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "base/result.h"
#include "engine/drafter.h"
#include "kv/page_pool.h"
#include "model/model.h"
#include "store/page_memory.h"

namespace halfmoon::engine {

/// Keeps KV of its own for each sequence it guesses for, in a bounded number of pages; where they
/// run out, the sequence that was guessed for longest ago loses its own. A sequence of which the
/// draft model has not seen all tokens (its prompt came from the prefix cache, or nobody wanted
/// guesses for a while) catches up in chunks beside the steps and gets no guesses until then.
///
/// Sampled requests draw their guesses with the random number of the token's own draw, as
/// MtpDrafter does.
class ModelDrafter final : public Drafter {
 public:
  struct Options {
    size_t kv_bytes = 0;        ///< for pages of the draft model
    int32_t vocab_size = 0;     ///< of the model that is guessed for
    int32_t max_sequences = 0;  ///< guessed for in one step
    int32_t chunk_tokens = 64;  ///< most tokens of catching up beside a step that has fewer itself
  };
  /// The draft model outlives it. Its vocabulary has the same ids, though it may have other rows of
  /// padding behind them. Errors: kInvalidArgument where kv_bytes does not hold a page, or the
  /// draft model takes fewer sequences in a step.
  static Result<std::unique_ptr<ModelDrafter>> Create(model::Model* draft, const Options& options);
  ~ModelDrafter() override;

  void Propose(std::span<DraftJob> jobs) override;
  bool Learn(std::span<const ComputedRows> rows) override;
  void Forget(sched::SeqId id) override;

 private:
  // What the draft model has computed of a sequence.
  struct Mirror {
    std::vector<int32_t> ids;  // whose KV is in the pages: known ones, then guesses
    size_t known = 0;          // of ids: those that are known to be the sequence's
    std::vector<kv::PageRef> pages;
    std::vector<int32_t> page_table;
    int64_t used = 0;  // turn of the last use
  };
  // Tokens of a sequence to compute next.
  struct Piece {
    Mirror* mirror = nullptr;
    std::span<const int32_t> ids;
  };
  // A sequence with guesses still to be made.
  struct Open {
    DraftJob* job = nullptr;
    Mirror* mirror = nullptr;
  };
  ModelDrafter(model::Model* draft, const Options& options, int32_t num_pages,
               store::PageMemory memory);
  Mirror* Sync(sched::SeqId id, std::span<const int32_t> ids);
  bool Reserve(Mirror* mirror, size_t tokens);
  bool DropOldest();
  void Add(Mirror* mirror, std::span<const int32_t> ids, model::LogitsMode logits);
  bool Compute();
  void TakeGuesses();
  std::span<const float> LogitsOf(size_t row);
  bool Known(std::span<const int32_t> ids) const;

  model::Model* const draft_;
  const Options options_;
  const int32_t block_size_;
  Sampler sampler_;
  store::PageMemory memory_;
  kv::PagePool pool_;
  std::map<sched::SeqId, Mirror> mirrors_;
  int64_t turn_ = 0;
  // Buffers.
  std::vector<Piece> pieces_;
  std::vector<model::SequenceChunk> chunks_;
  std::vector<Open> open_;
  std::vector<float> padded_;  // [vocab_size] where the draft model has fewer rows
};

}  // namespace halfmoon::engine
