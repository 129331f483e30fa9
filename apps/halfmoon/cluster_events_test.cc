// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_events.h"

#include <gtest/gtest.h>

#include "cluster/messages.h"

namespace halfmoon::app {
namespace {

// Every field set to what it is not by default, so that one that is forgotten shows.
engine::Request FullRequest() {
  engine::Request request;
  request.prompt_ids = {1, 2, 3};
  request.sampling = {.temperature = 0.1f,
                      .top_p = 0.2f,
                      .top_k = 3,
                      .min_p = 0.4f,
                      .repetition_penalty = 1.5f,
                      .presence_penalty = 0.6f,
                      .frequency_penalty = 0.7f,
                      .seed = 8,
                      .logit_bias = {{1, 2.0f}}};
  request.max_tokens = 9;
  request.stop_ids = {4};
  request.num_logprobs = 5;
  request.prompt_logprobs = true;
  request.cache_salt = "tenant";
  request.resumed_tokens = 2;
  request.service = {.priority = -5, .yield_us = 6, .max_chunk_us = 7};
  request.grammar =
      engine::GrammarSource{.kind = text::GrammarKind::kRegex, .source = "a+", .eos_ids = {7}};
  return request;
}

TEST(ClusterEvents, Request_KeepsWhatDecidesItsTokens) {
  const cluster::GenerateRequest sent = ToCluster(FullRequest());
  EXPECT_EQ(sent.grammar->kind, static_cast<uint8_t>(text::GrammarKind::kRegex));
  EXPECT_EQ(sent.grammar->source, "a+");
  EXPECT_EQ(sent.grammar->eos_ids, std::vector<int32_t>{7});
  // Over the wire and back to an engine: what comes out goes out as the same bytes again, but for
  // the grammar, which the node makes hooks of.
  cluster::Submit submit{.request = sent};
  cluster::Submit received;
  ASSERT_TRUE(cluster::Decode(cluster::Encode(submit), &received).ok());
  engine::Request arrived = ToEngine(received.request);
  arrived.grammar = FullRequest().grammar;
  EXPECT_EQ(cluster::Encode(cluster::Submit{.request = ToCluster(arrived)}),
            cluster::Encode(submit));
}

TEST(ClusterEvents, Events_ComeBackAsTheyWere) {
  const engine::TokenEvent token{.id = 3, .logprob = -0.5f, .top = {{.id = 3, .logprob = -0.5f}}};
  const auto back = [](engine::Event event) { return ToEngine(ToCluster(std::move(event))); };
  const auto got = std::get<engine::TokenEvent>(back(token));
  EXPECT_EQ(got.id, 3);
  EXPECT_EQ(got.logprob, -0.5f);
  ASSERT_EQ(got.top.size(), 1u);
  EXPECT_EQ(got.top[0].id, 3);

  const auto prompt = std::get<engine::PromptEvent>(
      back(engine::PromptEvent{.cached_tokens = 4, .prompt_logprobs = {token, token}}));
  EXPECT_EQ(prompt.cached_tokens, 4);
  EXPECT_EQ(prompt.prompt_logprobs.size(), 2u);

  const auto progress = std::get<engine::ProgressEvent>(
      back(engine::ProgressEvent{.computed_tokens = 5, .prompt_tokens = 6}));
  EXPECT_EQ(progress.computed_tokens, 5);
  EXPECT_EQ(progress.prompt_tokens, 6);

  for (const auto reason : {engine::FinishReason::kStop, engine::FinishReason::kLength,
                            engine::FinishReason::kCancelled, engine::FinishReason::kError}) {
    const auto finish = std::get<engine::FinishEvent>(
        back(engine::FinishEvent{.reason = reason, .error = Error(ErrorCode::kIo, "disk")}));
    EXPECT_EQ(finish.reason, reason);
    EXPECT_EQ(finish.error->message(), "disk");
  }
}

}  // namespace
}  // namespace halfmoon::app
