// SPDX-License-Identifier: Apache-2.0
// Chooses the next token from one row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace halfmoon::engine {

/// Which tokens a sequence has seen, for penalties.
class TokenHistory {
 public:
  struct Counts {
    bool in_prompt = false;
    int32_t in_output = 0;
  };

  void AddPrompt(std::span<const int32_t> ids) {
    for (int32_t id : ids) counts_[id].in_prompt = true;
  }
  void AddOutput(int32_t id) { ++counts_[id].in_output; }
  const std::unordered_map<int32_t, Counts>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, Counts> counts_;
};

/// kInvalidArgument, naming the field, where a parameter is out of its range.
Status CheckSampling(const SamplingParams& params, int32_t vocab_size);

/// Whether a choice with these parameters looks at a TokenHistory.
bool NeedsHistory(const SamplingParams& params);

/// The order of operations is vLLM's: mask, logit bias, repetition penalty (prompt and output; a
/// positive logit is divided, a negative one multiplied), frequency and presence penalties (output
/// only), then either the largest (temperature 0; the lowest id of equals) or temperature, min_p,
/// top_k, top_p over what is left, and a draw. Equal logits rank by id, so a cut never depends on
/// how a selection happens to run. Engine thread only; buffers are reused.
class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);

  /// The token for `position`. logits: [V]. allowed: ceil(V / 32) words, bit 1 where a token may be
  /// chosen; empty allows all. Errors: kInternal where a logit is NaN or +infinity (names the
  /// token), or no token is left to choose.
  /// Cost: greedy without bias and penalties reads the row once.
  Result<int32_t> Choose(std::span<const float> logits, const SamplingParams& params,
                         const TokenHistory& history, std::span<const uint32_t> allowed,
                         int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool Ahead(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  }

  void Adjust(const SamplingParams& params, const TokenHistory& history,
              std::span<const uint32_t> allowed);
  int32_t Draw(std::span<const float> logits, float max, const SamplingParams& params,
               int64_t position);
  void KeepBest(std::span<const float> logits, float least, int32_t count);
  int32_t DrawFromAll(std::span<const float> logits, float max, float temperature, double uniform);
  int32_t DrawFromCandidates(float max, float temperature, double total, double top_p,
                             double uniform);

  std::vector<float> row_;      // [V] a changed copy of the logits
  std::vector<float> weights_;  // [V] exp((logit - max) / temperature)
  std::vector<Candidate> candidates_;
};

}  // namespace halfmoon::engine
