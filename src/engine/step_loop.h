// SPDX-License-Identifier: Apache-2.0
// What the engine thread does, step after step.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "engine/block_lookups.h"
#include "engine/block_traffic.h"
#include "engine/engine.h"
#include "engine/event_stream.h"
#include "engine/sampler.h"
#include "engine/speculator.h"
#include "engine/step_cost.h"
#include "engine/step_model.h"
#include "sched/sequence_table.h"
#include "sched/time_share.h"
#include "store/page_memory.h"

namespace halfmoon::engine {

/// A request on its way to the engine thread.
struct Submission {
  Request request;
  std::shared_ptr<EventStream> stream;
};

/// What engine thread and callers share. Thread-safe.
struct Mailbox {
  explicit Mailbox(int max_queued) : submissions(static_cast<size_t>(max_queued)) {}

  BoundedQueue<Submission> submissions;
  std::shared_ptr<WakeSignal> wake = std::make_shared<WakeSignal>();
  std::atomic<int> queued{0};  ///< submitted and not admitted for the first time
  std::atomic<bool> stop{false};
  std::mutex stats_mutex;
  EngineStats stats;  ///< GUARDED_BY(stats_mutex)
  std::mutex blocks_mutex;
  std::unordered_map<kv::BlockKey, bool> blocks;  ///< GUARDED_BY(blocks_mutex): changed, and there
};

/// Engine thread only.
class StepLoop {
 public:
  struct Config {
    sched::TableOptions table;
    int32_t max_request_tokens = 0;
    sched::ShareOptions share;
    store::BlockStore* store = nullptr;
  };
  /// Borrows all but the memory and the speculator, which may be null: no guesses.
  StepLoop(StepModel* model, const Clock* clock, const Config& config, store::PageMemory memory,
           std::unique_ptr<Speculator> speculator, Mailbox* mailbox);
  /// The model forgets it.
  ~StepLoop() { model_->SetLayerDone({}); }
  StepLoop(const StepLoop&) = delete;
  StepLoop& operator=(const StepLoop&) = delete;

  store::PageMemory& memory() { return memory_; }
  /// Key in front of the first block of sequences with this salt. Any thread.
  kv::BlockKey SeedKey(std::string_view cache_salt) const;
  /// Returns after mailbox->stop; every request inside has then got its FinishEvent.
  void Run();

 private:
  // A request inside the engine; its tokens and pages are in the table.
  struct Active {
    Request request;
    std::shared_ptr<EventStream> stream;
    TokenHistory history;
    std::vector<TokenEvent> prompt_logprobs;
    int32_t prompt_tokens = 0;
    int32_t generated = 0;
    bool admitted = false;  // at least once
    bool prompt_done = false;
    bool ended = false;      // its Ending is noted
    TimeUs started_us = 0;   // first admission
    TimeUs progress_us = 0;  // last ProgressEvent
  };

  // What became of a sequence's guesses in a step.
  struct GuessCounts {
    int32_t made = 0;
    int32_t checked = 0;   // compared with a choice
    int32_t accepted = 0;  // came true
  };

  // A request that the step has brought to its end.
  struct Ending {
    sched::SeqId id{};
    FinishReason reason = FinishReason::kStop;
    std::optional<Error> error;
  };

  // KV of a prompt that others copy; stays after its request until it is released.
  struct Exported {
    std::shared_ptr<KvExport> kv_export;
    std::vector<kv::PageRef> pages;
    std::vector<int32_t> page_ids;  // parallel to pages
    int32_t whole_blocks = 0;       // reported with all layers
    int layers = 0;                 // reported of the blocks after them
  };

  void TakeSubmissions();
  void DropCancelled();
  void UpdatePauses();
  bool RunStep();
  void NoteAdmitted(const std::vector<sched::SeqId>& ids);
  void BuildChunks(const std::vector<sched::Share>& shares);
  bool Forward(const sched::Plan& plan);
  void CountTime(const sched::Plan& plan, TimeUs step_us);
  void AfterForward(const std::vector<sched::Share>& shares);
  void TakeRows(size_t chunk, const sched::Share& share, std::span<const float> rows);
  model::LogitsMode LogitsFor(const Active& active, const sched::Sequence& sequence, int32_t tokens,
                              bool has_guesses) const;
  Status CollectPromptLogprobs(Active* active, std::span<const int32_t> prompt, int32_t start,
                               std::span<const float> rows);
  void ReportProgress(Active* active, int32_t computed_tokens);
  void FinishPrompt(Active* active, int32_t reused_tokens);
  Result<int32_t> ChooseToken(Active* active, std::span<const float> logits, int64_t position);
  void Generate(sched::SeqId id, Active* active, std::span<const int32_t> guesses,
                std::span<const float> rows);
  void End(sched::SeqId id, Active* active, FinishReason reason,
           std::optional<Error> error = std::nullopt);
  std::optional<FinishReason> TakeToken(sched::SeqId id, Active* active, int32_t token,
                                        std::span<const float> logits);
  // step_loop_guesses.cc
  void ProposeGuesses(const std::vector<sched::Share>& shares);
  void CountGuesses(sched::SeqId id, const GuessCounts& counts);
  void AskForGuesses();
  void LearnFromStep(const std::vector<sched::Share>& shares);
  // step_loop_exports.cc
  void BeginExport(sched::SeqId id, const Active& active);
  bool BeginLookup(sched::SeqId id, Submission* submission);
  void DropReleasedExports();
  void ReportKv(sched::SeqId id, int32_t blocks, int end_layer);
  void ReportLayer(int layer);
  void ReportComputed(std::span<const sched::Share> shares);
  void ServeExports(std::vector<sched::Share>* shares);
  // step_loop_store.cc
  void MoveBlocks();
  void TakeProgress();
  void BeginLoads(const std::vector<sched::Load>& loads);
  void AwaitBlocks();
  void Finish(sched::SeqId id, FinishReason reason, std::optional<Error> error = std::nullopt);
  void TellBlockChanges();
  void FinishAll();
  void PublishStats();

  StepModel* const model_;
  const Clock* const clock_;
  Mailbox* const mailbox_;
  const int32_t max_request_tokens_;
  const int32_t block_size_;
  const int32_t step_tokens_;
  const int num_layers_;
  const std::string fingerprint_;
  const size_t page_bytes_;
  store::PageMemory memory_;
  StepCosts costs_;
  BlockTraffic traffic_;
  sched::SequenceTable table_;
  BlockLookups lookups_;
  Sampler sampler_;
  std::map<sched::SeqId, Active> active_;
  std::map<sched::SeqId, Exported> exports_;
  const std::vector<sched::Share>* computing_ = nullptr;  // shares of the step being computed
  uint64_t next_id_ = 1;
  sched::TimeShare time_share_;
  bool told_sharing_ = false;
  EngineStats stats_;
  const std::unique_ptr<Speculator> speculator_;  // null without speculation
  // Buffers of a step.
  std::vector<model::SequenceChunk> chunks_;
  std::vector<int32_t> chunk_ids_;             // of chunks with guesses
  std::vector<std::vector<int32_t>> guesses_;  // by share
  std::vector<DraftJob> jobs_;
  std::vector<ComputedRows> computed_;
  std::vector<Speculator::Candidate> candidates_;
  std::vector<Ending> endings_;
  std::vector<uint32_t> mask_;
  std::vector<BlockTraffic::Progress> progress_;
  std::vector<kv::BlockKey> sealed_;
};

}  // namespace halfmoon::engine
