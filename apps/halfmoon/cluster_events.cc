// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_events.h"

#include <utility>

#include "text/grammar.h"

namespace halfmoon::app {
namespace {

template <typename To, typename From>
To Token(From token) {
  To made{.id = token.id, .logprob = token.logprob};
  for (const auto& best : token.top) made.top.push_back({.id = best.id, .logprob = best.logprob});
  return made;
}

template <typename To, typename Into, typename From>
To Prompt(From prompt) {
  To made{.cached_tokens = prompt.cached_tokens};
  for (auto& token : prompt.prompt_logprobs) {
    made.prompt_logprobs.push_back(Token<Into>(std::move(token)));
  }
  return made;
}

// Their order is part of the wire.
static_assert(static_cast<int>(engine::FinishReason::kStop) ==
              static_cast<int>(cluster::FinishReason::kStop));
static_assert(static_cast<int>(engine::FinishReason::kLength) ==
              static_cast<int>(cluster::FinishReason::kLength));
static_assert(static_cast<int>(engine::FinishReason::kCancelled) ==
              static_cast<int>(cluster::FinishReason::kCancelled));
static_assert(static_cast<int>(engine::FinishReason::kError) ==
              static_cast<int>(cluster::FinishReason::kError));

}  // namespace

cluster::GenerateRequest ToCluster(const engine::Request& request) {
  const engine::SamplingParams& sampling = request.sampling;
  cluster::GenerateRequest made{.prompt_ids = request.prompt_ids,
                                .sampling = {.temperature = sampling.temperature,
                                             .top_p = sampling.top_p,
                                             .top_k = sampling.top_k,
                                             .min_p = sampling.min_p,
                                             .repetition_penalty = sampling.repetition_penalty,
                                             .presence_penalty = sampling.presence_penalty,
                                             .frequency_penalty = sampling.frequency_penalty,
                                             .seed = sampling.seed,
                                             .logit_bias = sampling.logit_bias},
                                .max_tokens = request.max_tokens,
                                .stop_ids = request.stop_ids,
                                .num_logprobs = request.num_logprobs,
                                .prompt_logprobs = request.prompt_logprobs,
                                .cache_salt = request.cache_salt,
                                .resumed_tokens = request.resumed_tokens,
                                .turn = {.priority = request.service.priority,
                                         .yield_us = request.service.yield_us,
                                         .max_chunk_us = request.service.max_chunk_us}};
  if (request.grammar.has_value()) {
    made.grammar = cluster::GrammarSpec{.kind = static_cast<uint8_t>(request.grammar->kind),
                                        .source = request.grammar->source,
                                        .eos_ids = request.grammar->eos_ids};
  }
  return made;
}

engine::Service ServiceOf(const cluster::Turn& turn) {
  return {.priority = turn.priority, .yield_us = turn.yield_us, .max_chunk_us = turn.max_chunk_us};
}

engine::Request ToEngine(const cluster::GenerateRequest& request) {
  const cluster::Sampling& sampling = request.sampling;
  engine::Request made;
  made.prompt_ids = request.prompt_ids;
  made.sampling = {.temperature = sampling.temperature,
                   .top_p = sampling.top_p,
                   .top_k = sampling.top_k,
                   .min_p = sampling.min_p,
                   .repetition_penalty = sampling.repetition_penalty,
                   .presence_penalty = sampling.presence_penalty,
                   .frequency_penalty = sampling.frequency_penalty,
                   .seed = sampling.seed,
                   .logit_bias = sampling.logit_bias};
  made.max_tokens = request.max_tokens;
  made.stop_ids = request.stop_ids;
  made.num_logprobs = request.num_logprobs;
  made.prompt_logprobs = request.prompt_logprobs;
  made.cache_salt = request.cache_salt;
  made.resumed_tokens = request.resumed_tokens;
  made.service = ServiceOf(request.turn);
  return made;
}

cluster::Event ToCluster(engine::Event event) {
  if (auto* token = std::get_if<engine::TokenEvent>(&event)) {
    return Token<cluster::TokenEvent>(std::move(*token));
  }
  if (auto* prompt = std::get_if<engine::PromptEvent>(&event)) {
    return Prompt<cluster::PromptEvent, cluster::TokenEvent>(std::move(*prompt));
  }
  if (const auto* progress = std::get_if<engine::ProgressEvent>(&event)) {
    return cluster::ProgressEvent{.computed_tokens = progress->computed_tokens,
                                  .prompt_tokens = progress->prompt_tokens};
  }
  auto& finish = std::get<engine::FinishEvent>(event);
  return cluster::FinishEvent{.reason = static_cast<cluster::FinishReason>(finish.reason),
                              .error = std::move(finish.error)};
}

engine::Event ToEngine(cluster::Event event) {
  if (auto* token = std::get_if<cluster::TokenEvent>(&event)) {
    return Token<engine::TokenEvent>(std::move(*token));
  }
  if (auto* prompt = std::get_if<cluster::PromptEvent>(&event)) {
    return Prompt<engine::PromptEvent, engine::TokenEvent>(std::move(*prompt));
  }
  if (const auto* progress = std::get_if<cluster::ProgressEvent>(&event)) {
    return engine::ProgressEvent{.computed_tokens = progress->computed_tokens,
                                 .prompt_tokens = progress->prompt_tokens};
  }
  auto& finish = std::get<cluster::FinishEvent>(event);
  return engine::FinishEvent{.reason = static_cast<engine::FinishReason>(finish.reason),
                             .error = std::move(finish.error)};
}

}  // namespace halfmoon::app
