// SPDX-License-Identifier: Apache-2.0
// A running answer beside a long prompt: time is the manual clock's, which each step moves on.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "engine/engine_fixture.h"

namespace halfmoon::engine {
namespace {

constexpr TimeUs kDecodeUs = 10'000;
constexpr TimeUs kChunkUs = 2'000;
constexpr TimeUs kTokenUs = 100;
constexpr int32_t kAnswerTokens = 400;
constexpr int32_t kPromptTokens = 1500;

struct Step {
  bool decodes = false;
  int32_t prompt_tokens = 0;
  TimeUs us = 0;
};

class FairShareTest : public EngineTest {
 protected:
  // The answer runs for 20 steps alone, then the prompt comes.
  void RunBoth(EngineOptions options) {
    steps_.clear();
    options.stream_capacity = 1024;
    options.step_tokens = 512;
    Start(200, options,
          {.max_context = 2048,
           .max_step_tokens = 512,
           .before_step = [this](std::span<const model::SequenceChunk> chunks) { Take(chunks); }});
    gate_.Close();
    const auto answer = Submit(Greedy(Prompt(8), kAnswerTokens));
    for (int i = 0; i < 20; ++i) {
      gate_.AwaitArrival();
      gate_.LetOneStep();
    }
    gate_.AwaitArrival();
    const auto prompt = Submit(Greedy(Prompt(kPromptTokens, 3), 1));
    gate_.Open();
    prompt_output_ = ReadAll(prompt.get());
    answer_output_ = ReadAll(answer.get());
    stats_ = engine_->Stats();
    engine_->Shutdown();
  }

  void Take(std::span<const model::SequenceChunk> chunks) {
    Step step;
    for (const model::SequenceChunk& chunk : chunks) {
      if (chunk.ids.size() == 1) {
        step.decodes = true;
      } else {
        step.prompt_tokens += static_cast<int32_t>(chunk.ids.size());
      }
    }
    step.us = (step.decodes ? kDecodeUs : 0) + (step.prompt_tokens > 0 ? kChunkUs : 0) +
              kTokenUs * step.prompt_tokens;
    clock_.AdvanceUs(step.us);
    steps_.push_back(step);
  }

  std::vector<Step> steps_;  // engine thread, until that has ended
  Output prompt_output_;
  Output answer_output_;
  EngineStats stats_;
};

TEST_F(FairShareTest, LongPrompt_AnswerKeepsItsShareAndStallsAreBounded) {
  RunBoth({.decode_share = 0.7, .max_stall_us = 30'000});
  int32_t read = 0;
  double decoded = 0.0;
  double us = 0.0;
  for (size_t i = 1; i < steps_.size() && read < kPromptTokens; ++i) {
    read += steps_[i].prompt_tokens;
    if (read == 0) continue;
    ASSERT_TRUE(steps_[i].decodes) << i;
    decoded += static_cast<double>(kDecodeUs);
    us += static_cast<double>(steps_[i].us);
    // The first chunk's cost is known from the answer's own prompt only, which was short.
    EXPECT_LE(steps_[i].us, kDecodeUs + 40'000) << i;
  }
  EXPECT_EQ(read, kPromptTokens);
  EXPECT_GE(decoded / us, 0.68);
  EXPECT_LE(decoded / us, 0.75);
  EXPECT_GT(stats_.prompt_wait_steps, 10u);
  // (30 ms - 2 ms) / 0.1 ms
  EXPECT_NEAR(stats_.prompt_chunk_tokens, 280, 30);
  EXPECT_NEAR(stats_.decode_step_us, static_cast<double>(kDecodeUs), 100.0);
}

TEST_F(FairShareTest, ShareOff_PromptFillsEachStepAndBitsAreTheSame) {
  RunBoth({.decode_share = 0.0});
  EXPECT_EQ(stats_.prompt_wait_steps, 0u);
  EXPECT_EQ(steps_[21].prompt_tokens + steps_[22].prompt_tokens + steps_[23].prompt_tokens,
            kPromptTokens);
  const Output answer = answer_output_;
  const Output prompt = prompt_output_;
  RunBoth({.decode_share = 0.9, .max_stall_us = 5'000});
  EXPECT_GT(stats_.prompt_wait_steps, 50u);
  ExpectSame(answer_output_, answer, "the answer");
  ExpectSame(prompt_output_, prompt, "the prompt");
}

TEST_F(FairShareTest, OptionsOutOfRange_NamedInTheError) {
  for (const double share : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    const auto engine = Engine::Start(std::make_unique<ToyModel>(ToyOptions{}, &counters_), &clock_,
                                      {.kv_bytes = 1 << 20, .decode_share = share});
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.error().code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(engine.error().message().find("decode_share"), std::string::npos);
  }
  const auto engine = Engine::Start(std::make_unique<ToyModel>(ToyOptions{}, &counters_), &clock_,
                                    {.kv_bytes = 1 << 20, .max_stall_us = 0});
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message().find("max_stall_us"), std::string::npos);
}

}  // namespace
}  // namespace halfmoon::engine
