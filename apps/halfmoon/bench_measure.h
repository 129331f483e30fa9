// SPDX-License-Identifier: Apache-2.0
// What `halfmoon bench` measures.
#pragma once

#include <string>
#include <vector>

#include "apps/halfmoon/bench_case.h"
#include "apps/halfmoon/runtime.h"
#include "base/result.h"
#include "engine/engine.h"
#include "model/contiguous_kv.h"
#include "model/model.h"

namespace halfmoon::app {

struct Measurement {
  std::string name;
  int depth = 0;                ///< tokens in the KV cache before
  int tokens = 0;               ///< computed by one run, of all sequences
  std::vector<double> seconds;  ///< of each counted run, sorted; at least one
  model::ExpertStats before, after;
  double median() const { return seconds[seconds.size() / 2]; }
};

/// A case with its ids and KV made ready, to be run again and again: what a step costs does not
/// depend on what lies behind the depth.
class PreparedCase {
 public:
  /// which.kind is a prefill or a decode; `decode_tokens` are decoded by each sequence. Computes
  /// the depth. Errors: those of Model::Forward.
  static Result<PreparedCase> Make(model::Model* model, const BenchCase& which, int decode_tokens);

  Status Run();  ///< one pass; errors as Make
  const BenchCase& which() const { return case_; }
  model::Model* model() const { return model_; }
  /// Computed by one pass, of all sequences.
  int tokens() const { return static_cast<int>(ids_.size()); }

 private:
  PreparedCase(model::Model* model, const BenchCase& which, int length)
      : model_(model), case_(which), length_(length) {}
  Status RunPrefill();
  Status RunDecode();

  model::Model* model_;
  BenchCase case_;
  int length_;                ///< tokens of each sequence
  std::vector<int32_t> ids_;  ///< [sequences, length_]
  std::vector<model::ContiguousKv> kv_;
};

/// How often a case runs.
struct Passes {
  int count = 5;
  double stop_after_s = 1e9;  ///< no further pass begins then
  bool warm_up = true;        ///< one pass first that does not count
};

/// Errors: those of Model::Forward.
Result<Measurement> MeasureCase(const Passes& passes, PreparedCase* prepared);

/// A text that repeats itself, continued without guesses and with them, in turns.
struct GuessingMeasurement {
  Measurement plain;
  Measurement guessing;
  engine::EngineStats stats;  ///< of the last run with guesses
};
/// Requires runtime->draft_source. Starts and ends engines of its own.
Result<GuessingMeasurement> MeasureGuessing(const ModelOptions& options, int tokens, int repeats,
                                            Runtime* runtime);

}  // namespace halfmoon::app
