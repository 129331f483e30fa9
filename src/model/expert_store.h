// SPDX-License-Identifier: Apache-2.0
// Experts of a model that is larger than memory: a fixed number of slots, filled from disk ahead of
// use and by direct I/O.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/file_reader.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/expert_catalog.h"
#include "model/expert_policy.h"
#include "model/expert_stats.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace halfmoon::model {

struct ExpertStoreOptions {
  size_t budget_bytes = 0;  ///< of slots and read buffers together, never exceeded
  int num_experts = 0;      ///< of a layer
  int top_k = 0;            ///< experts that one token uses in a layer
};

/// Slots hold experts in kernel layout; read buffers hold their stored bytes between the disk and a
/// slot. A layer's step is Begin, then Fetch of each round in order. What the step still needs is
/// never evicted, and neither are slots for the sake of what was only foretold: that waits in read
/// buffers. Which experts are in memory decides when something is computed, never what.
///
/// Engine thread only; packing runs on the pool.
class ExpertStore {
 public:
  /// Allocates and touches all memory at once, so that a budget that cannot be had fails at start.
  /// Errors: kInvalidArgument naming the smallest budget, where the experts of one token in one
  /// layer do not fit.
  static Result<std::unique_ptr<ExpertStore>> Create(ExpertCatalog catalog,
                                                     std::unique_ptr<FileReader> reader,
                                                     ThreadPool* pool,
                                                     const ExpertStoreOptions& options);

  /// Starts a layer: `chosen` are the experts of all its tokens, in any order, repeated as they
  /// come. Starts reading those that are missing.
  void Begin(int layer, std::span<const int32_t> chosen);
  /// The distinct experts of the layer, round after round: first those in memory, a round that
  /// needs no waiting and may be empty, then the others in rounds that fit the slots.
  std::span<const int32_t> order() const { return order_; }
  size_t num_rounds() const { return round_ends_.size(); }
  /// Waits until all experts of a round are in slots and returns them; expert() is valid for them
  /// until the next Fetch or Begin. Errors: kIo, kCorrupt, naming tensor and file; the store then
  /// goes on with the next Begin.
  Result<std::span<const int32_t>> Fetch(size_t round);
  const FfnWeights& expert(int32_t e) const;

  /// Whether foretelling a layer can be of use: some of its experts are not in memory.
  bool CanPrefetch(int layer) const;
  /// Experts that `layer` is likely to use next, likeliest first. Reads what is missing of them as
  /// far as read buffers are free, as long as at least half of what was foretold lately came true.
  void Foretell(int layer, std::span<const int32_t> experts);

  const ExpertCatalog& catalog() const { return catalog_; }
  const ExpertMemory& memory() const { return memory_; }
  const ExpertStats& stats() const { return stats_; }
  size_t size_bytes() const { return slot_memory_.size_bytes() + read_memory_.size_bytes(); }

 private:
  static constexpr int32_t kNone = -1;

  struct Slot {
    std::span<std::byte> memory;
    FfnWeights ffn;  ///< views of `memory`
  };
  struct ReadBuffer {
    std::span<std::byte> memory;
    int32_t expert = kNone;
    int reads_left = 0;
    uint64_t started = 0;  ///< order of use, for reuse of the oldest
    bool foretold = false;
    Status status;
    std::array<const std::byte*, 6> data{};  ///< values and scales of gate, up, down
  };

  ExpertStore(ExpertCatalog catalog, std::unique_ptr<FileReader> reader, ThreadPool* pool,
              const ExpertStoreOptions& options, const ExpertMemory& memory);

  size_t IndexOf(int32_t e) const { return first_ + static_cast<size_t>(e); }
  void SortIntoRounds();
  /// Starts reads of the layer's missing experts, in order, as long as buffers are free.
  void StartReads();
  void StartRead(size_t expert, size_t buffer, bool foretold);
  /// A buffer that nothing in this layer waits for; kNone where there is none.
  int32_t FreeBuffer();
  void Release(ReadBuffer* buffer);
  void Complete(const FileReadDone& done);
  void CompleteAll();
  /// Moves a read expert into a slot.
  Status Pack(ReadBuffer* buffer);
  Status PackInto(const ReadBuffer& buffer, Slot* slot);
  int32_t FreeSlot();
  /// Packs those of `experts` that are read; the number that is not in slots after.
  Result<size_t> PackRead(std::span<const int32_t> experts);
  /// Counts what was foretold for this layer and came true.
  void JudgeForetold(int layer);

  const ExpertCatalog catalog_;
  ThreadPool* const pool_;
  const ExpertStoreOptions options_;
  ExpertMemory memory_;
  MonotonicClock clock_;
  ExpertStats stats_;
  tensor::AlignedBuffer slot_memory_;
  tensor::AlignedBuffer read_memory_;
  std::vector<Slot> slots_;
  std::vector<ReadBuffer> buffers_;
  std::vector<int32_t> free_slots_;
  std::vector<int32_t> slot_of_;    // by expert of the catalog
  std::vector<int32_t> buffer_of_;  // likewise
  ExpertPolicy policy_;

  // The layer at hand.
  size_t first_ = 0;
  std::vector<int32_t> order_;
  std::vector<size_t> round_ends_;
  size_t next_read_ = 0;         // of order_, the next to be read
  std::vector<uint8_t> wanted_;  // by expert of the catalog: not yet in a slot
  std::vector<uint8_t> pinned_;  // likewise: in the round at hand
  std::vector<uint8_t> seen_;    // by expert of the layer
  std::span<const int32_t> round_;

  // What was foretold.
  std::vector<std::vector<int32_t>> foretold_;  // by layer
  uint64_t judged_ = 0;
  uint64_t came_true_ = 0;
  uint64_t reads_started_ = 0;

  // Last, so that it ends first: nothing may write into buffers that are gone.
  std::unique_ptr<FileReader> reader_;
};

}  // namespace halfmoon::model
