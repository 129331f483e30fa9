// SPDX-License-Identifier: Apache-2.0
// A model made ready to use: checkpoint, pool, weights, tokenizer, chat template, engine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "apps/halfmoon/model_options.h"
#include "apps/halfmoon/model_source.h"
#include "apps/halfmoon/weight_cache_options.h"
#include "base/clock.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace halfmoon::app {

/// Bytes of weights made ready, and in all.
using LoadProgress = std::function<void(size_t done, size_t total)>;

/// What `halfmoon` holds while it works. Members are destroyed in reverse order: the engine first.
struct Runtime {
  Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  /// Gives what was computed some seconds to get into the KV store.
  ~Runtime();

  WeightCacheOwner weight_cache;  ///< last to go: writes out what is still to be written
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<text::Tokenizer> tokenizer;  ///< null where the checkpoint has none
  std::optional<text::ChatTemplate> chat_template;
  std::shared_ptr<const checkpoint::Checkpoint> draft_checkpoint;
  std::unique_ptr<model::Model> draft;  ///< null without a draft model
  MonotonicClock clock;
  std::unique_ptr<store::TieredStore> kv_store;  ///< null where none was asked for
  std::unique_ptr<engine::Engine> engine;        ///< null until StartEngine

  std::string name;  ///< what clients call the model: as it was named, or the file's name
  hub::License license;
  size_t kv_bytes = 0;  ///< KV budget of the engine
  engine::DraftSource draft_source = engine::DraftSource::kNone;
};

/// Opens and loads. `tokenizer_required` makes a checkpoint without a vocabulary an error. What the
/// options give up, if anything, is said on stderr.
Result<std::unique_ptr<Runtime>> LoadRuntime(const ModelOptions& options, bool tokenizer_required,
                                             const LoadProgress& progress);

/// Opens a model for its vocabulary and chat template only: no weights, no engine.
Result<std::unique_ptr<Runtime>> LoadVocabulary(const std::string& model);

/// Starts the engine within the KV budget; `max_queued` requests may wait.
Status StartEngine(const ModelOptions& options, int max_queued, Runtime* runtime);

/// Ends the engine, and before that lets the KV store have what was computed, for at most so long.
/// Nothing happens where that has been done.
void FinishEngine(TimeUs timeout_us, Runtime* runtime);

/// One line each on stderr: the machine that was found, and what was decided, with the flags that
/// override it.
void PrintPlan(const ModelOptions& options, const Runtime& runtime);

/// The licence, and whether it asks for a second look: one line on stderr.
void PrintLicense(const Runtime& runtime);

/// What the weights say of their licence, else what lies beside them.
hub::License LicenseOf(const checkpoint::Checkpoint& checkpoint, const ModelSource& source);

/// Draws load progress on stderr for loads that take long enough to notice.
LoadProgress TerminalProgress();

/// Prints "halfmoon: message" on stderr and answers the exit code of a failure.
int Fail(const Error& error);

/// Memory that is free for the taking, bytes (MemAvailable); 0 where the system does not say.
size_t AvailableMemoryBytes();

/// The same without what the system could only free by dropping mapped weights.
size_t FreeBesideWeights(const Runtime& runtime);

/// Memory that a process holds now, bytes (VmRSS: what it shares with files counts too); 0 where
/// the system does not say.
size_t ResidentBytes(int pid);

}  // namespace halfmoon::app
