// SPDX-License-Identifier: Apache-2.0
// What the engine needs of a model: one forward pass over chunks of sequences. Keeps the step loop
// free of weights and families, and lets tests run it over a model of a few lines.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "kernels/paged_kv.h"
#include "model/model.h"

namespace halfmoon::engine {

/// See model::Model for the contract of each function. Used by the engine thread only.
class StepModel {
 public:
  virtual ~StepModel() = default;
  virtual const kernels::KvLayout& kv_layout() const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual int32_t max_context() const = 0;
  virtual int32_t max_step_tokens() const = 0;
  virtual int32_t max_sequences() const = 0;
  virtual std::string fingerprint() const = 0;
  /// Called first of all on the engine thread.
  virtual void SeatCaller() {}
  virtual Status Forward(std::span<const model::SequenceChunk> chunks) = 0;
  virtual std::span<const float> logits() const = 0;
  /// A model that never calls `done` is as right: layers then count as complete with the step.
  virtual void SetLayerDone(std::function<void(int layer)> /*done*/) {}
  virtual model::ExpertStats expert_stats() const { return {}; }
};

}  // namespace halfmoon::engine
