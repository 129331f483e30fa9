// SPDX-License-Identifier: Apache-2.0
#include "model/perplexity.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "model/contiguous_kv.h"

namespace halfmoon::model {
namespace {

/// -ln softmax(logits)[id].
double NegativeLogLikelihood(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return std::log(sum) + top - static_cast<double>(logits[static_cast<size_t>(id)]);
}

/// Appends the scores of positions [first_target, ids.size()) of one window.
Status ScoreWindow(Model* model, ThreadPool* pool, std::span<const int32_t> ids,
                   size_t first_target, ContiguousKv* kv, std::vector<double>* scores) {
  const auto step = static_cast<size_t>(model->options().max_step_tokens);
  const auto vocab = static_cast<size_t>(model->vocab_size());
  // Position p predicts token p + 1, so the last position is not computed.
  const size_t count = ids.size() - 1;
  const size_t first_row = first_target - 1;
  for (size_t begin = 0; begin < count;) {
    const bool wanted = begin >= first_row;
    const size_t end = std::min(begin + step, wanted ? count : first_row);
    const SequenceChunk chunk{.ids = ids.subspan(begin, end - begin),
                              .start = static_cast<int32_t>(begin),
                              .kv = kv->view(),
                              .logits = wanted ? LogitsMode::kAll : LogitsMode::kNone};
    HM_TRY(model->Forward({&chunk, 1}));
    if (wanted) {
      const std::span<const float> logits = model->logits();
      const size_t at = scores->size();
      scores->resize(at + end - begin);
      pool->ParallelFor(end - begin, [&](size_t row, int) {
        (*scores)[at + row] =
            NegativeLogLikelihood(logits.subspan(row * vocab, vocab), ids[begin + row + 1]);
      });
    }
    begin = end;
  }
  return {};
}

Perplexity Summarise(const std::vector<double>& scores, int64_t computed_tokens) {
  Perplexity result{.scored_tokens = static_cast<int64_t>(scores.size()),
                    .computed_tokens = computed_tokens};
  const auto n = static_cast<double>(scores.size());
  for (const double score : scores) result.mean_nll += score / n;
  double squares = 0.0;
  for (const double score : scores) squares += std::pow(score - result.mean_nll, 2);
  if (scores.size() > 1) result.standard_error = std::sqrt(squares / (n - 1.0) / n);
  return result;
}

Status Check(const Model& model, std::span<const int32_t> ids, const PerplexityOptions& options) {
  const auto refuse = [](std::string message) {
    return Error(ErrorCode::kInvalidArgument, std::move(message));
  };
  if (ids.size() < 2) {
    return refuse("perplexity needs two tokens, the text has " + std::to_string(ids.size()));
  }
  if (options.window < 2 || options.window > model.max_context()) {
    return refuse("a window of " + std::to_string(options.window) + " tokens; expected 2 to " +
                  std::to_string(model.max_context()) + ", the context");
  }
  if (options.stride < 1 || options.stride > options.window) {
    return refuse("a stride of " + std::to_string(options.stride) + " tokens; expected 1 to " +
                  std::to_string(options.window) + ", the window");
  }
  for (const int32_t id : ids) {
    if (id >= 0 && id < model.vocab_size()) continue;
    return refuse("token id " + std::to_string(id) + " is outside the vocabulary of " +
                  std::to_string(model.vocab_size()));
  }
  return {};
}

}  // namespace

double Perplexity::value() const { return std::exp(mean_nll); }
double Perplexity::value_standard_error() const { return value() * standard_error; }

Result<Perplexity> ComputePerplexity(Model* model, ThreadPool* pool, std::span<const int32_t> ids,
                                     const PerplexityOptions& options,
                                     const PerplexityProgress& progress) {
  HM_TRY(Check(*model, ids, options));
  const auto size = static_cast<int64_t>(ids.size());
  const int64_t beyond_first = std::max<int64_t>(0, size - options.window);
  const int64_t windows = 1 + (beyond_first + options.stride - 1) / options.stride;
  ContiguousKv kv(model->kv_layout(), std::min(size, options.window));
  std::vector<double> scores;
  scores.reserve(ids.size() - 1);
  int64_t computed = 0;
  int64_t next_target = 1;  // in the text
  Perplexity so_far;
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t begin = i * options.stride;
    const int64_t end = std::min(begin + options.window, size);
    // A stride of a whole window leaves its first token without anything before it.
    next_target = std::max(next_target, begin + 1);
    HM_TRY(ScoreWindow(model, pool,
                       ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                       static_cast<size_t>(next_target - begin), &kv, &scores));
    computed += end - begin - 1;
    next_target = end;
    so_far = Summarise(scores, computed);
    if (!std::isfinite(so_far.mean_nll)) {
      return Error(ErrorCode::kCorrupt, "logits are not finite between tokens " +
                                            std::to_string(begin) + " and " + std::to_string(end) +
                                            " of the text");
    }
    if (progress) progress(i + 1, windows, so_far);
  }
  return so_far;
}

}  // namespace halfmoon::model
