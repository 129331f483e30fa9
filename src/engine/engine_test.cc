// SPDX-License-Identifier: Apache-2.0
// What comes out of the engine: tokens, logprobs, errors of one request.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <thread>

#include "engine/engine_fixture.h"

namespace halfmoon::engine {
namespace {

TEST_F(EngineTest, Greedy_TokensAreThoseOfTheModel) {
  Start(20);
  std::vector<int32_t> ids = Prompt(21);
  const Output output = Run(Greedy(ids, 10));
  ASSERT_EQ(output.ids.size(), 10u);
  for (int32_t id : output.ids) {
    EXPECT_EQ(id, ToyModel::GreedyToken(ids, 97));
    ids.push_back(id);
  }
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
  EXPECT_FALSE(output.finish.error.has_value());
  EXPECT_EQ(output.prompt->cached_tokens, 0);
  // The last token is never computed.
  EXPECT_EQ(counters_.tokens.load(), 21 + 9);
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.prompt_tokens, 21u);
  EXPECT_EQ(stats.generated_tokens, 10u);
  EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::kLength)], 1u);
  EXPECT_EQ(stats.pages_total, 20);
}

TEST_F(EngineTest, Events_PromptThenTokensThenFinish) {
  Start(20);
  auto handle = Submit(Greedy(Prompt(5), 2));
  EXPECT_TRUE(std::holds_alternative<PromptEvent>(*handle->Next()));
  EXPECT_TRUE(std::holds_alternative<TokenEvent>(*handle->Next()));
  EXPECT_TRUE(std::holds_alternative<TokenEvent>(*handle->Next()));
  EXPECT_TRUE(std::holds_alternative<FinishEvent>(*handle->Next()));
  EXPECT_FALSE(handle->Next().has_value());
  EXPECT_FALSE(handle->TryNext().has_value());
}

TEST_F(EngineTest, SamePromptAgain_PrefixFromCacheSameTokens) {
  Start(40);
  const Output first = Run(Sampled(Prompt(50), 20, 7));
  EXPECT_EQ(first.prompt->cached_tokens, 0);
  const Output second = Run(Sampled(Prompt(50), 20, 7));
  EXPECT_EQ(second.prompt->cached_tokens, 48);
  EXPECT_EQ(second.ids, first.ids);
  EXPECT_EQ(engine_->Stats().cached_prompt_tokens, 48u);
  EXPECT_GT(engine_->Stats().pages_cached, 0);
  // A prompt of whole blocks still computes its last token.
  const Output whole = Run(Sampled(Prompt(48), 5, 7));
  EXPECT_EQ(whole.prompt->cached_tokens, 32);
  const Output other_salt = [&] {
    Request request = Sampled(Prompt(50), 20, 7);
    request.cache_salt = "tenant";
    return Run(std::move(request));
  }();
  EXPECT_EQ(other_salt.prompt->cached_tokens, 0);
  EXPECT_EQ(other_salt.ids, first.ids);
}

TEST_F(EngineTest, Service_DecidesWhoIsComputedFirst) {
  std::vector<int32_t> firsts;
  ToyOptions toy;
  toy.before_step = [&firsts](std::span<const model::SequenceChunk> chunks) {
    for (const model::SequenceChunk& chunk : chunks) {
      if (chunk.start == 0) firsts.push_back(chunk.ids[0]);
    }
  };
  Start(20, {.max_running = 1, .prefix_cache = false}, std::move(toy));
  gate_.Close();
  std::vector<std::unique_ptr<RequestHandle>> handles;
  const auto submit = [&](int32_t first, const Service& service) {
    Request request = Greedy(Prompt(5, first), 2);
    request.service = service;
    handles.push_back(Submit(std::move(request)));
  };
  submit(1, {});
  gate_.AwaitArrival();
  submit(2, {.priority = 1});
  submit(3, {.yield_us = 1000});
  submit(4, {});
  submit(5, {.priority = -1});
  clock_.AdvanceUs(2000);
  gate_.Open();
  for (const auto& handle : handles) ReadAll(handle.get());
  // All that came meanwhile counts as come when the engine took it.
  EXPECT_EQ(firsts, (std::vector<int32_t>{1, 5, 4, 3, 2}));
}

TEST_F(EngineTest, OtherSeed_OtherTokens) {
  Start(40);
  EXPECT_NE(Run(Sampled(Prompt(20), 20, 1)).ids, Run(Sampled(Prompt(20), 20, 2)).ids);
}

// Each request alone on a fresh engine without cache, then all together: with room, with hardly any
// pages (so that many are preempted), and with a tiny step budget.
TEST_F(EngineTest, BatchOf16_SameTokensAsAlone) {
  const auto request = [](int i) {
    return Sampled(Prompt(10 + 5 * (i % 7), i % 3), 30 + i, static_cast<uint64_t>(i));
  };
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 16; ++i) {
    Start(10, {.prefix_cache = false});
    alone.push_back(Run(request(i)).ids);
    ASSERT_EQ(alone.back().size(), static_cast<size_t>(30 + i));
  }
  struct Setting {
    int pages;
    EngineOptions options;
    bool expect_preemption;
  };
  const Setting settings[] = {
      {200, {}, false},
      {14, {}, true},
      {14, {.prefix_cache = false}, true},
      {200, {.max_running = 3, .step_tokens = 3}, false},
      {14, {.step_tokens = 17, .stream_capacity = 2}, true},
  };
  for (const Setting& setting : settings) {
    counters_.largest_batch = 0;
    Start(setting.pages, setting.options);
    std::vector<std::unique_ptr<RequestHandle>> handles;
    for (int i = 0; i < 16; ++i) handles.push_back(Submit(request(i)));
    std::vector<Output> outputs(16);
    std::vector<std::thread> readers;
    for (size_t i = 0; i < 16; ++i) {
      readers.emplace_back([&, i] { outputs[i] = ReadAll(handles[i].get()); });
    }
    for (std::thread& reader : readers) reader.join();
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(outputs[i].ids, alone[i]) << "request " << i << " with " << setting.pages;
      EXPECT_EQ(outputs[i].finish.reason, FinishReason::kLength);
    }
    EXPECT_GT(counters_.largest_batch.load(), 1);
    if (setting.expect_preemption) {
      EXPECT_GT(engine_->Stats().preemptions, 0u);
    }
    EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  }
}

TEST_F(EngineTest, StopId_ReportedThenStop) {
  Start(20);
  Request request = Greedy(Prompt(10), 50);
  const std::vector<int32_t> all = Run(request).ids;
  request.stop_ids = {all[4]};
  const Output output = Run(request);
  const auto first = std::find(all.begin(), all.end(), all[4]) - all.begin();
  EXPECT_EQ(output.ids, std::vector<int32_t>(all.begin(), all.begin() + first + 1));
  EXPECT_EQ(output.finish.reason, FinishReason::kStop);
}

TEST_F(EngineTest, MaxTokensZero_PromptOnly) {
  Start(20);
  const Output output = Run(Greedy(Prompt(10), 0));
  EXPECT_TRUE(output.prompt.has_value());
  EXPECT_TRUE(output.ids.empty());
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
}

TEST_F(EngineTest, ContextReached_FinishesWithLength) {
  Start(20, {}, {.max_context = 40});
  EXPECT_EQ(engine_->max_request_tokens(), 40);
  const Output output = Run(Greedy(Prompt(30), 100));
  EXPECT_EQ(output.ids.size(), 10u);
  EXPECT_EQ(output.finish.reason, FinishReason::kLength);
}

TEST_F(EngineTest, Logprobs_OfChosenAndBest) {
  Start(20);
  Request request = Greedy(Prompt(10), 3);
  request.num_logprobs = 5;
  const Output output = Run(request);
  for (const TokenEvent& token : output.tokens) {
    ASSERT_EQ(token.top.size(), 5u);
    EXPECT_EQ(token.top[0].id, token.id);  // greedy
    EXPECT_EQ(token.top[0].logprob, token.logprob);
    EXPECT_LT(token.logprob, 0);
    EXPECT_TRUE(
        std::is_sorted(token.top.begin(), token.top.end(),
                       [](const Logprob& a, const Logprob& b) { return a.logprob > b.logprob; }));
  }
}

TEST_F(EngineTest, PromptLogprobs_EqualThoseOfGeneration) {
  // What greedy generation reports for its tokens has to come back when they are a prompt; also in
  // chunks, and with a step budget below the chunk.
  for (int step_tokens : {64, 5}) {
    Start(40, {.max_running = 2, .step_tokens = step_tokens});
    Request generate = Greedy(Prompt(40), 60);
    generate.num_logprobs = 2;
    const Output generated = Run(generate);
    std::vector<int32_t> ids = Prompt(40);
    ids.insert(ids.end(), generated.ids.begin(), generated.ids.end());
    Request request = Greedy(ids, 1);
    request.num_logprobs = 2;
    request.prompt_logprobs = true;
    const Output output = Run(request);
    EXPECT_EQ(output.prompt->cached_tokens, 0);
    const std::vector<TokenEvent>& logprobs = output.prompt->prompt_logprobs;
    ASSERT_EQ(logprobs.size(), ids.size());
    EXPECT_TRUE(std::isnan(logprobs[0].logprob));
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(logprobs[i].id, ids[i]);
      if (i < 40) continue;
      EXPECT_EQ(logprobs[i].logprob, generated.tokens[i - 40].logprob);
      EXPECT_EQ(logprobs[i].top[1].id, generated.tokens[i - 40].top[1].id);
    }
    ASSERT_EQ(output.tokens.size(), 1u);
  }
}

TEST_F(EngineTest, SamePromptFourTimes_ComputedOnce) {
  Start(100);
  gate_.Close();
  std::vector<std::unique_ptr<RequestHandle>> handles;
  handles.push_back(Submit(Greedy(Prompt(3, 90), 1)));  // holds the engine in its step
  gate_.AwaitArrival();
  for (int i = 0; i < 4; ++i) handles.push_back(Submit(Sampled(Prompt(60), 5, 100 + i)));
  gate_.Open();
  int32_t cached = 0;
  for (size_t i = 0; i < handles.size(); ++i) {
    cached += ReadAll(handles[i].get()).prompt->cached_tokens;
  }
  EXPECT_EQ(cached, 3 * 48);
}

TEST_F(EngineTest, Mask_OnlyAllowedTokensAndToldOfEach) {
  Start(20);
  Request request = Sampled(Prompt(10), 20, 3);
  std::vector<int32_t> told;
  request.mask = [](std::span<uint32_t> allowed) {
    EXPECT_EQ(allowed.size(), 4u);
    EXPECT_TRUE(std::ranges::all_of(allowed, [](uint32_t word) { return word == ~0u; }));
    std::ranges::fill(allowed, 0u);
    allowed[1] = 0b1010;
  };
  request.on_token = [&told](int32_t id) { told.push_back(id); };
  const Output output = Run(request);
  EXPECT_EQ(told, output.ids);
  for (int32_t id : output.ids) EXPECT_TRUE(id == 33 || id == 35) << id;
}

TEST_F(EngineTest, MaskAllowsNothingOrThrows_OnlyThatRequestFails) {
  Start(20);
  Request nothing = Greedy(Prompt(10), 5);
  nothing.mask = [](std::span<uint32_t> allowed) { std::ranges::fill(allowed, 0u); };
  Request throws = Greedy(Prompt(12), 5);
  throws.mask = [](std::span<uint32_t>) { throw std::runtime_error("grammar broke"); };
  Request told_throws = Greedy(Prompt(13), 5);
  told_throws.on_token = [](int32_t) { throw 1; };
  auto a = Submit(nothing);
  auto b = Submit(throws);
  auto c = Submit(told_throws);
  auto d = Submit(Greedy(Prompt(11), 5));
  for (auto* handle : {a.get(), b.get(), c.get()}) {
    const Output output = ReadAll(handle);
    EXPECT_EQ(output.finish.reason, FinishReason::kError);
    EXPECT_EQ(output.finish.error->code(), ErrorCode::kInternal);
    if (handle == b.get()) {
      EXPECT_NE(output.finish.error->message().find("grammar broke"), std::string::npos);
    }
  }
  EXPECT_EQ(ReadAll(d.get()).ids.size(), 5u);
}

TEST_F(EngineTest, ModelComputesNan_RequestFailsWithAReason) {
  ToyOptions toy;
  const uint64_t bad = 7;
  toy.change_row = [](uint64_t hash, std::span<float> row) {
    if (hash % bad == 0) row[3] = std::nanf("");
  };
  Start(20, {}, toy);
  bool failed = false;
  for (int i = 0; i < 10 && !failed; ++i) {
    const Output output = Run(Greedy(Prompt(10, i), 30));
    failed = output.finish.reason == FinishReason::kError;
    if (failed) {
      EXPECT_NE(output.finish.error->message().find("NaN as logit of token 3"), std::string::npos);
    }
  }
  EXPECT_TRUE(failed);
}

TEST_F(EngineTest, StepThrows_ItsRequestsFailEngineGoesOn) {
  ToyOptions toy;
  toy.before_step = [](std::span<const model::SequenceChunk> chunks) {
    if (chunks[0].ids[0] == 42) throw std::runtime_error("out of luck");
  };
  Start(20, {}, toy);
  const Output output = Run(Greedy({42, 1}, 5));
  EXPECT_EQ(output.finish.reason, FinishReason::kError);
  EXPECT_NE(output.finish.error->message().find("out of luck"), std::string::npos);
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  EXPECT_EQ(Run(Greedy({41, 1}, 5)).ids.size(), 5u);
}

TEST_F(EngineTest, StepFails_ItsRequestsGetTheErrorEngineGoesOn) {
  ToyOptions toy;
  toy.fail_step = [](std::span<const model::SequenceChunk> chunks) -> Status {
    if (chunks[0].ids[0] != 42) return {};
    return Error(ErrorCode::kIo, "tensor 'w': cannot read");
  };
  Start(20, {}, toy);
  const Output output = Run(Greedy({42, 1}, 5));
  EXPECT_EQ(output.finish.reason, FinishReason::kError);
  EXPECT_EQ(output.finish.error->code(), ErrorCode::kIo);
  EXPECT_EQ(output.finish.error->message(), "tensor 'w': cannot read");
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  EXPECT_EQ(Run(Greedy({41, 1}, 5)).ids.size(), 5u);
}

TEST_F(EngineTest, LongPrefill_ReportsProgress) {
  ToyOptions toy;
  toy.before_step = [this](std::span<const model::SequenceChunk>) { clock_.AdvanceUs(400'000); };
  Start(40, {.step_tokens = 64}, toy);
  const Output slow = Run(Greedy(Prompt(400), 2));
  ASSERT_GE(slow.progress.size(), 1u);
  for (const ProgressEvent& progress : slow.progress) {
    EXPECT_EQ(progress.prompt_tokens, 400);
    EXPECT_GE(progress.computed_tokens, 3 * 64);  // nothing in the first second
    EXPECT_LT(progress.computed_tokens, 400);
  }
  EXPECT_TRUE(Run(Greedy(Prompt(100, 3), 2)).progress.empty());
}

}  // namespace
}  // namespace halfmoon::engine
