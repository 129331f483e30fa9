// SPDX-License-Identifier: Apache-2.0
// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/model.h"

namespace halfmoon::model {

struct PerplexityOptions {
  int64_t window = 512;  ///< tokens that a window shows the model, 2 or more
  int64_t stride = 256;  ///< tokens from the start of one window to that of the next, 1 .. window
};

struct Perplexity {
  double mean_nll = 0.0;        ///< mean of -ln p(token), nats
  double standard_error = 0.0;  ///< of the mean, tokens taken as independent
  int64_t scored_tokens = 0;
  int64_t computed_tokens = 0;

  double value() const;                 ///< exp(mean_nll)
  double value_standard_error() const;  ///< value() times standard_error
};

/// Called after each window with windows done and in all, and the result so far.
using PerplexityProgress = std::function<void(int64_t done, int64_t total, const Perplexity&)>;

/// Slides a window over `ids`. Each token but the first is scored once, in the first window that
/// holds it, given the tokens before it in that window: at least window - stride of them after the
/// first window. Errors: kInvalidArgument (fewer than two tokens, ids outside the vocabulary, a
/// window the model's context does not hold), kCorrupt where logits are not finite. Calling thread
/// and `pool`.
Result<Perplexity> ComputePerplexity(Model* model, ThreadPool* pool, std::span<const int32_t> ids,
                                     const PerplexityOptions& options,
                                     const PerplexityProgress& progress);

}  // namespace halfmoon::model
