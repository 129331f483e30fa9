// SPDX-License-Identifier: Apache-2.0
// Requests that come and go: admission, pauses, cancels, drain, shutdown.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <thread>

#include "engine/engine_fixture.h"

namespace halfmoon::engine {
namespace {

TEST_F(EngineTest, SlowConsumer_PausedAndResumedOthersGoOn) {
  Start(40, {.stream_capacity = 8});
  auto slow = Submit(Greedy(Prompt(10), 100));
  const Output fast = Run(Greedy(Prompt(12), 100));
  EXPECT_EQ(fast.ids.size(), 100u);
  // The slow one stands at its capacity; the engine is idle.
  WaitFor([this] { return engine_->Stats().generated_tokens == 107; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(engine_->Stats().generated_tokens, 107u);
  EXPECT_EQ(ReadAll(slow.get()).ids.size(), 100u);
}

TEST_F(EngineTest, ConsumerThatNeverReads_DoesNotBlockOthers) {
  Start(8, {.stream_capacity = 4});
  auto silent = Submit(Greedy(Prompt(90), 30));  // 6 of 8 pages
  WaitFor([this] { return engine_->Stats().generated_tokens == 3; });
  EXPECT_EQ(Run(Greedy(Prompt(60, 5), 40)).ids.size(), 40u);
  EXPECT_GT(engine_->Stats().preemptions, 0u);
  EXPECT_EQ(ReadAll(silent.get()).ids.size(), 30u);
}

TEST_F(EngineTest, Cancel_AtEachStage_FinishesAndFreesPages) {
  Start(40, {.max_running = 1, .step_tokens = 16});
  gate_.Close();
  auto running = Submit(Greedy(Prompt(60), 50));
  auto queued = Submit(Greedy(Prompt(60, 1), 50));
  gate_.AwaitArrival();  // in the middle of the first one's prefill
  EXPECT_EQ(engine_->Stats().queued, 1);
  queued->Cancel();
  queued->Cancel();
  running->Cancel();
  gate_.Open();
  EXPECT_EQ(ReadAll(queued.get()).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(ReadAll(running.get()).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  EXPECT_EQ(engine_->Stats().queued, 0);
  // While generating.
  auto generating = Submit(Greedy(Prompt(5), 400));
  while (std::optional<Event> event = generating->Next()) {
    if (std::holds_alternative<TokenEvent>(*event)) break;
  }
  generating->Cancel();
  EXPECT_EQ(ReadAll(generating.get()).finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(engine_->Stats().finished[static_cast<size_t>(FinishReason::kCancelled)], 3u);
}

TEST_F(EngineTest, HandleDropped_RequestIsCancelled) {
  Start(20);
  Submit(Greedy(Prompt(10), 400)).reset();
  WaitFor([this] {
    return engine_->Stats().finished[static_cast<size_t>(FinishReason::kCancelled)] == 1;
  });
}

TEST_F(EngineTest, Notify_RunsForEachEventAndForWhatIsThere) {
  Start(20);
  auto handle = Submit(Greedy(Prompt(10), 3));
  WaitFor([this] {
    return engine_->Stats().finished[static_cast<size_t>(FinishReason::kLength)] == 1;
  });
  std::atomic<int> calls{0};
  handle->SetNotify([&calls] { ++calls; });
  EXPECT_GE(calls.load(), 1);

  gate_.Close();
  auto second = Submit(Greedy(Prompt(11), 3));
  std::atomic<int> events{0};
  second->SetNotify([&events] { ++events; });
  gate_.Open();
  WaitFor([&events] { return events.load() == 5; });  // prompt, three tokens, finish
  int taken = 0;
  while (second->TryNext()) ++taken;
  EXPECT_EQ(taken, 5);
}

TEST_F(EngineTest, NotifyThrows_EngineGoesOn) {
  Start(20);
  gate_.Close();
  auto handle = Submit(Greedy(Prompt(11), 3));
  handle->SetNotify([] { throw std::runtime_error("consumer broke"); });
  gate_.Open();
  EXPECT_EQ(ReadAll(handle.get()).ids.size(), 3u);
}

TEST_F(EngineTest, QueueFull_ResourceExhausted) {
  Start(40, {.max_running = 1, .max_queued = 2});
  gate_.Close();
  auto running = Submit(Greedy(Prompt(5), 5));
  gate_.AwaitArrival();
  auto first = Submit(Greedy(Prompt(5), 5));
  auto second = Submit(Greedy(Prompt(5), 5));
  EXPECT_EQ(engine_->Stats().queued, 2);
  EXPECT_EQ(SubmitError(Greedy(Prompt(5), 5)), ErrorCode::kResourceExhausted);
  gate_.Open();
  EXPECT_EQ(ReadAll(second.get()).ids.size(), 5u);
  EXPECT_EQ(Run(Greedy(Prompt(5), 5)).ids.size(), 5u);
}

TEST_F(EngineTest, InvalidRequests_RefusedWithAReason) {
  Start(4, {}, {.max_context = 100});
  EXPECT_EQ(engine_->max_request_tokens(), 64);
  EXPECT_EQ(SubmitError(Greedy({}, 5)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy({1, 97}, 5)), ErrorCode::kInvalidArgument);
  EXPECT_NE(message_.find("token id 97"), std::string::npos);
  EXPECT_EQ(SubmitError(Greedy({-1}, 5)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy({1}, -1)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(SubmitError(Greedy(Prompt(100), 5)), ErrorCode::kInvalidArgument);
  EXPECT_NE(message_.find("100 tokens"), std::string::npos);
  EXPECT_NE(message_.find("context of 100"), std::string::npos);
  EXPECT_EQ(SubmitError(Greedy(Prompt(64), 5)), ErrorCode::kInvalidArgument);
  EXPECT_NE(message_.find("KV memory for 64"), std::string::npos);
  Request request = Greedy({1}, 1);
  request.num_logprobs = 21;
  EXPECT_EQ(SubmitError(request), ErrorCode::kInvalidArgument);
  request = Greedy({1}, 1);
  request.sampling.top_p = 0;
  EXPECT_EQ(SubmitError(request), ErrorCode::kInvalidArgument);
  EXPECT_NE(message_.find("top_p"), std::string::npos);
  // The longest that fits is served.
  EXPECT_EQ(Run(Greedy(Prompt(63), 5)).ids.size(), 1u);
  EXPECT_TRUE(Run(Greedy(Prompt(64), 0)).prompt.has_value());
}

TEST_F(EngineTest, Drain_RefusesNewServesOld) {
  Start(20);
  gate_.Close();
  auto running = Submit(Greedy(Prompt(5), 5));
  gate_.AwaitArrival();
  auto queued = Submit(Greedy(Prompt(6), 5));
  engine_->Drain();
  EXPECT_EQ(SubmitError(Greedy(Prompt(5), 5)), ErrorCode::kUnavailable);
  gate_.Open();
  EXPECT_EQ(ReadAll(running.get()).ids.size(), 5u);
  EXPECT_EQ(ReadAll(queued.get()).ids.size(), 5u);
}

TEST_F(EngineTest, Shutdown_EveryStreamEndsWithUnavailable) {
  Start(40, {.max_running = 1});
  gate_.Close();
  auto running = Submit(Greedy(Prompt(5), 400));
  auto queued = Submit(Greedy(Prompt(6), 400));
  gate_.AwaitArrival();
  std::atomic<bool> down{false};
  std::thread reader([&queued] {
    const Output output = ReadAll(queued.get());
    EXPECT_EQ(output.finish.reason, FinishReason::kError);
    EXPECT_EQ(output.finish.error->code(), ErrorCode::kUnavailable);
  });
  std::thread stopper([this, &down] {
    engine_->Shutdown();
    down = true;
  });
  // Far fewer steps than either has to go, until the engine has seen the stop.
  for (int i = 0; i < 300 && !down; ++i) {
    gate_.LetOneStep();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stopper.join();
  reader.join();
  engine_->Shutdown();
  const Output output = ReadAll(running.get());
  EXPECT_EQ(output.finish.error->code(), ErrorCode::kUnavailable);
  EXPECT_FALSE(running->Next().has_value());
  EXPECT_EQ(SubmitError(Greedy(Prompt(5), 5)), ErrorCode::kUnavailable);
}

TEST_F(EngineTest, HandleOutlivesEngine_StillReadable) {
  Start(20);
  auto handle = Submit(Greedy(Prompt(5), 3));
  WaitFor([this] {
    return engine_->Stats().finished[static_cast<size_t>(FinishReason::kLength)] == 1;
  });
  engine_.reset();
  EXPECT_EQ(ReadAll(handle.get()).ids.size(), 3u);
  handle->Cancel();
}

TEST_F(EngineTest, Idle_UsesNoCpu) {
  Start(20, {.stream_capacity = 4});
  auto paused = Submit(Greedy(Prompt(5), 100));
  WaitFor([this] { return engine_->Stats().generated_tokens == 3; });
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double used_s = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(used_s, 0.05);
}

TEST(EngineStart, BadOptions_RefusedWithAReason) {
  const MonotonicClock clock;
  ToyCounters counters;
  const auto error = [&](EngineOptions options) {
    const auto engine =
        Engine::Start(std::make_unique<ToyModel>(ToyOptions{}, &counters), &clock, options);
    EXPECT_FALSE(engine.ok());
    return engine.ok() ? "" : engine.error().message();
  };
  EXPECT_NE(error({.kv_bytes = 10}).find("10 bytes"), std::string::npos);
  EXPECT_NE(error({.kv_bytes = 1 << 20, .max_running = 0}).find("max_running"), std::string::npos);
  EXPECT_NE(error({.kv_bytes = 1 << 20, .max_queued = 0}).find("max_queued"), std::string::npos);
  EXPECT_NE(error({.kv_bytes = 1 << 20, .step_tokens = 0}).find("step_tokens"), std::string::npos);
  EXPECT_NE(error({.kv_bytes = 1 << 20, .stream_capacity = 0}).find("stream_capacity"),
            std::string::npos);
}

// Clients that come, cancel, read slowly and vanish, from several threads.
TEST_F(EngineTest, RandomClients_EveryStreamEnds) {
  Start(30, {.max_running = 8, .max_queued = 16, .step_tokens = 24, .stream_capacity = 6});
  std::vector<std::thread> clients;
  std::atomic<int> ended{0};
  for (uint32_t c = 0; c < 4; ++c) {
    clients.emplace_back([this, c, &ended] {
      uint32_t state = c + 1;
      const auto below = [&state](uint32_t limit) {
        state = state * 1664525u + 1013904223u;
        return static_cast<int32_t>((state >> 8) % limit);
      };
      for (int i = 0; i < 40; ++i) {
        Result<std::unique_ptr<RequestHandle>> handle = engine_->Submit(
            Sampled(Prompt(1 + below(120), below(3)), below(60), static_cast<uint64_t>(i)));
        if (!handle.ok()) {
          EXPECT_EQ(handle.error().code(), ErrorCode::kResourceExhausted);
          continue;
        }
        const int32_t dice = below(6);
        if (dice == 0) continue;  // dropped
        if (dice == 1) (*handle)->Cancel();
        if (dice == 2) (*handle)->Next();
        if (dice == 2) continue;
        const Output output = ReadAll(handle->get());
        EXPECT_NE(output.finish.reason, FinishReason::kError);
        ++ended;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(ended.load(), 0);
  WaitFor([this] { return engine_->Stats().running == 0 && engine_->Stats().queued == 0; });
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
}

}  // namespace
}  // namespace halfmoon::engine
