// SPDX-License-Identifier: Apache-2.0
// What `halfmoon bench` measures.
#pragma once

#include <string>
#include <vector>

#include "apps/halfmoon/runtime.h"
#include "base/result.h"
#include "engine/engine.h"
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

/// A prompt of `tokens` tokens behind `depth` others. Errors: those of Model::Forward.
Result<Measurement> MeasurePrefill(model::Model* model, int depth, int tokens, int repeats);
/// `tokens` tokens of each of `batch` sequences, one a step.
Result<Measurement> MeasureDecode(model::Model* model, int depth, int batch, int tokens,
                                  int repeats);

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
