// SPDX-License-Identifier: Apache-2.0
// engine: the step loop. One engine thread owns scheduler state, prefix index, page accounting and
// the model's forward; requests come in through a bounded queue and tokens leave through one
// bounded stream a request. It never parses text from clients and never touches sockets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "model/expert_stats.h"
#include "sched/scheduler.h"
#include "store/block_store.h"
#include "text/grammar.h"

namespace halfmoon::model {
class Model;
}

namespace halfmoon::engine {

class Drafter;
class KvExport;
class LocalPages;
class StepModel;

/// How the next token is chosen. Same seed, same output: the random number of a token depends on
/// (seed, position in the sequence) only. Who asks for n sequences of one prompt gives each its own
/// seed.
struct SamplingParams {
  float temperature = 1.0f;  ///< 0: greedy
  float top_p = 1.0f;        ///< (0, 1]
  int32_t top_k = 0;         ///< 0: all
  float min_p = 0.0f;        ///< [0, 1]
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
};

/// What Request::mask and on_token were made of, for an engine that computes somewhere else.
struct GrammarSource {
  text::GrammarKind kind = text::GrammarKind::kJsonSchema;
  std::string source;
  std::vector<int32_t> eos_ids;
};

/// Whose turn a request is among others, and what it was promised.
struct Service {
  int64_t priority = 0;  ///< smaller ones go first
  /// Among those of its priority it lets pass what comes up to so much later; at least 0.
  TimeUs yield_us = 0;
  /// Most time that its prompt may add to a step in which others decode; 0: the engine's own rule.
  TimeUs max_chunk_us = 0;
  // An engine that predicts refuses what would break these; 0: nothing is promised.
  TimeUs ttft_limit_us = 0;  ///< time to the first token
  TimeUs tbt_limit_us = 0;   ///< time between tokens
};

/// One sequence to compute: what a client sent, already tokenised. n > 1 is n requests that share a
/// prefix.
struct Request {
  std::vector<int32_t> prompt_ids;  ///< at least 1
  SamplingParams sampling;
  int32_t max_tokens = 0;  ///< most tokens generated; 0: compute the prompt only
  Service service;
  std::vector<int32_t> stop_ids;  ///< end-of-sequence ids; the token is reported, then the stream
                                  ///< finishes with kStop
  int32_t num_logprobs =
      -1;  ///< -1: none; 0: of the chosen token; k: of the k best too (at most 20)
  bool prompt_logprobs = false;  ///< logprobs of prompt tokens too (num_logprobs says how many);
                                 ///< the prefix is then computed, not reused
  std::string cache_salt;        ///< requests with different salts share no KV
  /// The last so many ids of the prompt were generated, by a request that was cut off and goes on
  /// here: to penalties they are output, and max_tokens counts them too.
  int32_t resumed_tokens = 0;
  /// Restricts the next token: called on the engine thread before each choice with a bitmask of
  /// ceil(V / 32) words, all ones. Optional.
  std::function<void(std::span<uint32_t> allowed)> mask;
  /// Told each chosen token, on the engine thread, before the next `mask` call. Optional.
  std::function<void(int32_t id)> on_token;
  std::optional<GrammarSource> grammar;  ///< set along with the two, where they are a grammar's
  /// Reports KV of the prompt as it comes to be (kv_export.h). Requires max_tokens 0.
  std::shared_ptr<KvExport> kv_export;
  /// Where blocks of the prompt come from that are in no page here, in place of the engine's store
  /// where it has any. One request's own. Optional.
  std::shared_ptr<store::BlockSource> source;
};

struct Logprob {
  int32_t id = 0;
  float logprob = 0.0f;  ///< natural log, of the model's distribution before temperature and cuts
};

struct TokenEvent {
  int32_t id = 0;
  float logprob = 0.0f;      ///< set when num_logprobs >= 0
  std::vector<Logprob> top;  ///< num_logprobs best, best first
};

/// The prompt is computed. Comes once, before the first token.
struct PromptEvent {
  int32_t cached_tokens = 0;                ///< prompt tokens whose KV came from pages or a store
  std::vector<TokenEvent> prompt_logprobs;  ///< with prompt_logprobs: one per prompt token; the
                                            ///< first has no logprob (NaN)
};

/// How far a long prefill has come; at most a few a second.
struct ProgressEvent {
  int32_t computed_tokens = 0;
  int32_t prompt_tokens = 0;
};

enum class FinishReason { kStop, kLength, kCancelled, kError };

struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  std::optional<Error> error;  ///< for kError: kUnavailable at shutdown, kIo or kCorrupt where
                               ///< experts could not be read, kInternal otherwise
};

using Event = std::variant<ProgressEvent, PromptEvent, TokenEvent, FinishEvent>;

/// The consumer's end of one request. Bounded: the engine pauses a sequence whose stream is full
/// and goes on when it drains. Dropping it cancels the request. Thread-safe.
class RequestHandle {
 public:
  virtual ~RequestHandle() = default;
  /// Next event if there is one. After a FinishEvent there is none.
  virtual std::optional<Event> TryNext() = 0;
  /// Waits for the next event; nullopt after the FinishEvent has been taken.
  virtual std::optional<Event> Next() = 0;
  /// `notify` runs (on the engine thread: must be quick, must call neither the engine nor
  /// SetNotify, must not drop the handle) whenever an event arrives; at once, on this thread, if
  /// there is one already. Once SetNotify or the destructor has returned, the notify before it
  /// neither runs nor will.
  virtual void SetNotify(std::function<void()> notify) = 0;
  /// Ends the request at the next step boundary at the latest; a FinishEvent{kCancelled} follows.
  /// Idempotent.
  virtual void Cancel() = 0;
};

/// Where guesses at the next tokens come from.
enum class DraftSource {
  kNone,
  kNgram,  ///< what followed the last time the sequence was at this point
  kMtp,    ///< the model's own draft layer, which has to be loaded (LoadOptions::load_mtp)
  kModel,  ///< a smaller model with the same vocabulary
};

/// Speculative decoding: tokens are guessed ahead and checked together in one step. A guess counts
/// only where it equals the token that plain decoding chooses at that place, so outputs are the
/// same with and without, at any temperature; only their speed differs.
struct SpeculationOptions {
  DraftSource source = DraftSource::kNone;
  int max_tokens = 8;    ///< most guesses of a sequence in a step, 1 to 64
  bool adaptive = true;  ///< as many as pay by what is measured, down to none; off: always the most
  /// kModel: outlives the engine, and only the engine computes with it. Ids have to mean the same
  /// in both models; rows of padding may differ.
  model::Model* draft_model = nullptr;
  size_t draft_kv_bytes = 0;  ///< kModel: budget of its KV pages
};

struct EngineOptions {
  size_t kv_bytes =
      0;  ///< budget of KV pages; at least one sequence of the model's context should fit
  int max_running = 64;       ///< sequences in a batch
  int max_queued = 256;       ///< waiting requests; beyond: kResourceExhausted
  int step_tokens = 512;      ///< token budget of a step
  int stream_capacity = 256;  ///< events buffered per request
  bool prefix_cache = true;
  bool shared_pages = false;  ///< page memory is a file that processes of this host can map
  bool track_blocks = false;  ///< TakeBlockChanges tells what becomes of blocks
  /// Part of their speed that running answers keep while one prompt is read beside them, [0, 1),
  /// by what steps are measured to cost (sched::ShareOptions); 0: prompts take whole steps.
  double decode_share = 0.7;
  /// Most time that the prompt tokens of one step add to it, as long as others wait for theirs.
  TimeUs max_stall_us = 200'000;
  SpeculationOptions speculation;
  /// Keeps blocks beyond what pages hold, and gives them back; outlives the engine. Optional.
  store::BlockStore* store = nullptr;
};

/// A snapshot for /metrics and logs. Counters since start, gauges now.
struct EngineStats {
  int running = 0;
  int queued = 0;
  int64_t pages_total = 0;
  int64_t pages_in_use = 0;  ///< held by sequences
  int64_t pages_cached = 0;  ///< hold reusable prefixes, free to evict
  uint64_t prompt_tokens = 0;
  uint64_t cached_prompt_tokens = 0;
  uint64_t page_hit_blocks = 0;  ///< that admitted sequences found in pages
  uint64_t looked_up_page_blocks =
      0;  ///< that others were given (KvExport, cached_only) from pages
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
  uint64_t preemptions = 0;
  /// Steps in which prompts waited so that running answers keep their share.
  uint64_t prompt_wait_steps = 0;
  int decoding = 0;                   ///< sequences whose prompt is computed
  int64_t decoding_kv_tokens = 0;     ///< that they hold
  int64_t waiting_prompt_tokens = 0;  ///< of prompts, still to compute
  sched::PromptCost prompt_cost;      ///< as measured so far
  double decode_step_us = 0.0;  ///< what the last step that decoded takes without prompt tokens
  /// Tokens of a prompt's beginning that one step may read beside running answers; 0: not measured.
  int32_t prompt_chunk_tokens = 0;
  uint64_t drafts = 0;                 ///< steps of a sequence that had guesses to check
  uint64_t draft_tokens = 0;           ///< guesses in them
  uint64_t accepted_draft_tokens = 0;  ///< of these, what came true
  /// When a request that is refused now may be taken, predicted; 0: not known.
  int retry_after_s = 0;
  uint64_t finished[4] = {};  ///< by FinishReason
  model::ExpertStats experts;
  int loading = 0;                ///< requests whose blocks are on their way from a store
  uint64_t loaded_blocks = 0;     ///< that came
  uint64_t failed_blocks = 0;     ///< that were hoped for and computed instead
  uint64_t load_wait_us = 0;      ///< from the start of each load to its end
  int waiting_offers = 0;         ///< blocks that the store has not got a copy of yet
  uint64_t unoffered_blocks = 0;  ///< computed, and gone before the store could have them
  std::optional<store::StoreStats> store;
};

/// Thread-safe.
class Engine {
 public:
  /// Starts the engine thread. The model and clock outlive the engine. Errors: kInvalidArgument
  /// naming the option, kResourceExhausted where memory for the pages cannot be had.
  static Result<std::unique_ptr<Engine>> Start(model::Model* model, const Clock* clock,
                                               const EngineOptions& options);
  /// The same over anything that computes steps (step_model.h), which the engine then owns.
  static Result<std::unique_ptr<Engine>> Start(std::unique_ptr<StepModel> model, const Clock* clock,
                                               const EngineOptions& options);
  /// The same with guesses from `drafter` in place of options.speculation.source.
  static Result<std::unique_ptr<Engine>> Start(std::unique_ptr<StepModel> model, const Clock* clock,
                                               const EngineOptions& options,
                                               std::unique_ptr<Drafter> drafter);
  virtual ~Engine() = default;  ///< as Shutdown

  /// Queues a request. Errors: kInvalidArgument (empty prompt, id out of range, prompt + 1 does not
  /// fit the context: the message names both lengths, or can never fit the KV budget),
  /// kResourceExhausted (queue full), kUnavailable (shutting down).
  virtual Result<std::unique_ptr<RequestHandle>> Submit(Request request) = 0;
  virtual EngineStats Stats() const = 0;
  /// nullptr where the engine computes somewhere else.
  virtual LocalPages* local_pages() { return nullptr; }
  /// Longest prompt + output a request may have.
  virtual int32_t max_request_tokens() const = 0;
  /// Refuses new requests from now on; those inside go on.
  virtual void Drain() = 0;
  /// Ends everything inside with FinishEvent{kError, kUnavailable} and joins the thread.
  /// Idempotent.
  virtual void Shutdown() = 0;
};

}  // namespace halfmoon::engine
