// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "engine/random.h"
#include "engine/row_scan.h"

namespace halfmoon::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

Status OutOfRange(const char* field, float value, const char* range) {
  return Error(ErrorCode::kInvalidArgument,
               std::string(field) + " is " + std::to_string(value) + ", must be " + range);
}

}  // namespace

Status CheckSampling(const SamplingParams& params, int32_t vocab_size) {
  // Written so that a NaN fails each of them.
  if (!(params.temperature >= 0 && std::isfinite(params.temperature))) {
    return OutOfRange("temperature", params.temperature, "at least 0");
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return OutOfRange("top_p", params.top_p, "above 0 and at most 1");
  }
  if (params.top_k < 0) {
    return OutOfRange("top_k", static_cast<float>(params.top_k), "at least 0");
  }
  if (!(params.min_p >= 0 && params.min_p <= 1)) {
    return OutOfRange("min_p", params.min_p, "between 0 and 1");
  }
  if (!(params.repetition_penalty > 0 && std::isfinite(params.repetition_penalty))) {
    return OutOfRange("repetition_penalty", params.repetition_penalty, "above 0");
  }
  if (!std::isfinite(params.presence_penalty)) {
    return OutOfRange("presence_penalty", params.presence_penalty, "finite");
  }
  if (!std::isfinite(params.frequency_penalty)) {
    return OutOfRange("frequency_penalty", params.frequency_penalty, "finite");
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return Error(ErrorCode::kInvalidArgument, "logit_bias names token " + std::to_string(id) +
                                                    ", the vocabulary has " +
                                                    std::to_string(vocab_size));
    }
    if (!std::isfinite(bias)) return OutOfRange("logit_bias", bias, "finite");
  }
  return {};
}

bool NeedsHistory(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

Sampler::Sampler(int32_t vocab_size) {
  HM_CHECK(vocab_size > 0);
  row_.resize(static_cast<size_t>(vocab_size));
  weights_.resize(static_cast<size_t>(vocab_size));
  candidates_.reserve(static_cast<size_t>(vocab_size));
}

Result<int32_t> Sampler::Choose(std::span<const float> logits, const SamplingParams& params,
                                const TokenHistory& history, std::span<const uint32_t> allowed,
                                int64_t position) {
  HM_CHECK(logits.size() == row_.size(), "a row of " + std::to_string(logits.size()));
  if (!allowed.empty() || !params.logit_bias.empty() || NeedsHistory(params)) {
    std::ranges::copy(logits, row_.begin());
    Adjust(params, history, allowed);
    logits = row_;
  }
  const RowMax best = FindMax(logits);
  if (best.not_a_number >= 0) {
    return Error(ErrorCode::kInternal,
                 "the model computed NaN as logit of token " + std::to_string(best.not_a_number));
  }
  if (best.value == std::numeric_limits<float>::infinity()) {
    return Error(ErrorCode::kInternal,
                 "the model computed infinity as logit of token " + std::to_string(best.index));
  }
  if (best.value == kMinusInfinity) {
    return Error(ErrorCode::kInternal, "no token is left to choose from");
  }
  if (params.temperature == 0) return best.index;
  return Draw(logits, best.value, params, position);
}

// row_ holds the logits. A NaN there survives all of this, so it is found afterwards.
void Sampler::Adjust(const SamplingParams& params, const TokenHistory& history,
                     std::span<const uint32_t> allowed) {
  if (!allowed.empty()) {
    for (size_t i = 0; i < row_.size(); ++i) {
      // A NaN stays where it is masked too: the row as a whole cannot be trusted.
      if ((allowed[i / 32] >> (i % 32) & 1) == 0 && row_[i] == row_[i]) row_[i] = kMinusInfinity;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) row_[static_cast<size_t>(id)] += bias;
  if (!NeedsHistory(params)) return;
  for (const auto& [id, counts] : history.counts()) {
    float& logit = row_[static_cast<size_t>(id)];
    if (params.repetition_penalty != 1.0f) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (counts.in_output > 0) {
      logit -= params.frequency_penalty * static_cast<float>(counts.in_output);
      logit -= params.presence_penalty;
    }
  }
}

int32_t Sampler::Draw(std::span<const float> logits, float max, const SamplingParams& params,
                      int64_t position) {
  const double uniform = UniformAt(params.seed, static_cast<uint64_t>(position));
  const float temperature = params.temperature;
  const auto vocab = static_cast<int32_t>(logits.size());
  const bool cut_k = params.top_k > 0 && params.top_k < vocab;
  // min_p bounds probability relative to the largest: log p - log p_max = (logit - max) / T.
  const float least =
      params.min_p > 0 ? max + temperature * std::log(params.min_p) : kMinusInfinity;
  if (!cut_k && params.min_p == 0 && params.top_p >= 1) {
    return DrawFromAll(logits, max, temperature, uniform);
  }
  double total = 0;
  if (cut_k || params.min_p > 0) {
    KeepBest(logits, least, cut_k ? params.top_k : vocab);
    for (const Candidate& candidate : candidates_) {
      total += std::exp((candidate.logit - max) / temperature);
    }
  } else {
    for (size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = std::exp((logits[i] - max) / temperature);
      total += weights_[i];
    }
    // Tokens below (1 - top_p) / V weigh less than 1 - top_p together, so the rest, which are the
    // most probable ones, hold all that top_p can keep. A tenth less leaves room for rounding.
    const double cut = 0.9 * (1.0 - params.top_p) * total / static_cast<double>(vocab);
    candidates_.clear();
    for (size_t i = 0; i < logits.size(); ++i) {
      if (weights_[i] >= cut) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
    }
  }
  return DrawFromCandidates(max, temperature, total, params.top_p, uniform);
}

// candidates_ becomes the first `count` of those of at least `least`, in no order.
void Sampler::KeepBest(std::span<const float> logits, float least, int32_t count) {
  candidates_.clear();
  const auto most = static_cast<size_t>(count);
  // Collects up to twice what is kept, then cuts back: each logit is looked at once and moved
  // seldom, since after the first cut few pass the bar.
  float bar = least;
  const auto cut_back = [&] {
    std::nth_element(candidates_.begin(), candidates_.begin() + count - 1, candidates_.end(),
                     Ahead);
    candidates_.resize(most);
    bar = std::max(bar, candidates_.back().logit);
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] >= bar)) continue;
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
    if (candidates_.size() >= 2 * most) cut_back();
  }
  if (candidates_.size() > most) cut_back();
}

int32_t Sampler::DrawFromAll(std::span<const float> logits, float max, float temperature,
                             double uniform) {
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    weights_[i] = std::exp((logits[i] - max) / temperature);
    total += weights_[i];
  }
  const double target = uniform * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    sum += weights_[i];
    last = i;
    if (sum > target) break;
  }
  return static_cast<int32_t>(last);
}

// Takes candidates from the most probable on until they weigh top_p of `total`, then draws among
// them.
int32_t Sampler::DrawFromCandidates(float max, float temperature, double total, double top_p,
                                    double uniform) {
  HM_CHECK(!candidates_.empty(), "the best token is always a candidate");
  const auto weight = [&](const Candidate& candidate) {
    return static_cast<double>(std::exp((candidate.logit - max) / temperature));
  };
  // A heap, because the nucleus is usually far smaller than the candidates. It pops to the back.
  const auto behind = [](const Candidate& a, const Candidate& b) { return Ahead(b, a); };
  std::make_heap(candidates_.begin(), candidates_.end(), behind);
  auto end = candidates_.end();
  double kept = 0;
  while (end != candidates_.begin() && (kept == 0 || kept < top_p * total)) {
    std::pop_heap(candidates_.begin(), end, behind);
    --end;
    kept += weight(*end);
  }
  const double target = uniform * kept;
  double sum = 0;
  auto chosen = candidates_.end() - 1;
  for (auto it = candidates_.end(); it != end;) {
    --it;
    const double w = weight(*it);
    if (w == 0) break;
    chosen = it;
    sum += w;
    if (sum > target) break;
  }
  return chosen->id;
}

}  // namespace halfmoon::engine
