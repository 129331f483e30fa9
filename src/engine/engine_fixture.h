// SPDX-License-Identifier: Apache-2.0
// For tests: an engine over the toy model, whose steps a test can hold.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "engine/drafter.h"
#include "engine/engine.h"
#include "engine/toy_model.h"

namespace halfmoon::engine {

inline constexpr int kBlock = 16;

inline std::vector<int32_t> Prompt(int32_t count, int32_t first = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = (first + i * 7) % 97;
  return ids;
}

struct Output {
  std::vector<int32_t> ids;
  std::vector<TokenEvent> tokens;
  std::optional<PromptEvent> prompt;
  std::vector<ProgressEvent> progress;
  FinishEvent finish;
};

inline Output ReadAll(RequestHandle* handle) {
  Output output;
  while (std::optional<Event> event = handle->Next()) {
    if (auto* token = std::get_if<TokenEvent>(&*event)) {
      output.ids.push_back(token->id);
      output.tokens.push_back(std::move(*token));
    } else if (auto* prompt = std::get_if<PromptEvent>(&*event)) {
      EXPECT_FALSE(output.prompt.has_value()) << "the prompt was done twice";
      output.prompt = std::move(*prompt);
    } else if (auto* progress = std::get_if<ProgressEvent>(&*event)) {
      output.progress.push_back(*progress);
    } else {
      output.finish = std::get<FinishEvent>(*event);
    }
  }
  return output;
}

/// The bits of a logprob, so that "the same" means the same.
inline std::vector<uint32_t> LogprobBits(const std::vector<TokenEvent>& tokens) {
  std::vector<uint32_t> bits;
  for (const TokenEvent& token : tokens) {
    bits.push_back(std::bit_cast<uint32_t>(token.logprob));
    for (const Logprob& top : token.top) {
      bits.push_back(static_cast<uint32_t>(top.id));
      bits.push_back(std::bit_cast<uint32_t>(top.logprob));
    }
  }
  return bits;
}

/// Everything that a client sees of a request, but for progress and cache hits.
inline void ExpectSame(const Output& got, const Output& want, const std::string& what) {
  EXPECT_EQ(got.ids, want.ids) << what;
  EXPECT_EQ(LogprobBits(got.tokens), LogprobBits(want.tokens)) << what;
  EXPECT_EQ(got.finish.reason, want.finish.reason) << what;
  EXPECT_EQ(got.finish.error.has_value(), want.finish.error.has_value()) << what;
  if (got.finish.error.has_value() && want.finish.error.has_value()) {
    EXPECT_EQ(got.finish.error->message(), want.finish.error->message()) << what;
  }
  ASSERT_EQ(got.prompt.has_value(), want.prompt.has_value()) << what;
  if (!got.prompt.has_value()) return;
  EXPECT_EQ(LogprobBits(got.prompt->prompt_logprobs), LogprobBits(want.prompt->prompt_logprobs))
      << what;
}

// Lets the engine thread stop in front of its steps, so that a test decides what meets in one.
class Gate {
 public:
  void Pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || tickets_ > 0; });
    --waiting_;
    if (!open_) --tickets_;
  }
  void Close() {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void LetOneStep() {
    std::lock_guard lock(mutex_);
    ++tickets_;
    changed_.notify_all();
  }
  void AwaitArrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0 && tickets_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int tickets_ = 0;
  int waiting_ = 0;
};

class EngineTest : public ::testing::Test {
 protected:
  void Start(int num_pages, EngineOptions options = {}, ToyOptions toy = {}) {
    options.kv_bytes = static_cast<size_t>(num_pages) * ToyModel::PageBytes(kBlock);
    toy.block_size = kBlock;
    auto inner = std::move(toy.before_step);
    toy.before_step = [this, inner](std::span<const model::SequenceChunk> chunks) {
      gate_.Pass();
      if (inner) inner(chunks);
    };
    auto model = std::make_unique<ToyModel>(toy, &counters_);
    Result<std::unique_ptr<Engine>> engine =
        drafter_ == nullptr
            ? Engine::Start(std::move(model), &clock_, options)
            : Engine::Start(std::move(model), &clock_, options, std::move(drafter_));
    ASSERT_TRUE(engine.ok()) << engine.error().message();
    engine_ = std::move(*engine);
  }
  void TearDown() override {
    gate_.Open();
    if (engine_ != nullptr) {
      engine_->Shutdown();
      EXPECT_EQ(engine_->Stats().pages_in_use, 0);
      EXPECT_EQ(engine_->Stats().queued, 0);
    }
    engine_.reset();
    EXPECT_EQ(counters_.wrong_slots.load(), 0);
  }
  std::unique_ptr<RequestHandle> Submit(Request request) {
    Result<std::unique_ptr<RequestHandle>> handle = engine_->Submit(std::move(request));
    EXPECT_TRUE(handle.ok()) << handle.error().message();
    return std::move(*handle);
  }
  Output Run(Request request) { return ReadAll(Submit(std::move(request)).get()); }
  ErrorCode SubmitError(Request request) {
    const Result<std::unique_ptr<RequestHandle>> handle = engine_->Submit(std::move(request));
    EXPECT_FALSE(handle.ok());
    message_ = handle.ok() ? "" : handle.error().message();
    return handle.ok() ? ErrorCode::kInternal : handle.error().code();
  }
  void WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 10000 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_TRUE(condition());
  }

  static Request Greedy(std::vector<int32_t> prompt, int32_t max_tokens) {
    Request request;
    request.prompt_ids = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    return request;
  }
  static Request Sampled(std::vector<int32_t> prompt, int32_t max_tokens, uint64_t seed) {
    Request request = Greedy(std::move(prompt), max_tokens);
    request.sampling = {.temperature = 0.9f, .top_p = 0.95f, .top_k = 40, .seed = seed};
    request.sampling.repetition_penalty = 1.1f;
    request.sampling.presence_penalty = 0.2f;
    return request;
  }

  ManualClock clock_;
  Gate gate_;
  ToyCounters counters_;
  std::unique_ptr<Drafter> drafter_;  // goes to the next engine that is started
  std::unique_ptr<Engine> engine_;
  std::string message_;
};

}  // namespace halfmoon::engine
