// SPDX-License-Identifier: Apache-2.0
// Guesses change how many steps a request takes, and nothing that its client sees.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

#include "engine/engine_fixture.h"
#include "engine/toy_drafter.h"

namespace halfmoon::engine {
namespace {

constexpr int32_t kVocab = 97;

EngineOptions With(EngineOptions options, bool adaptive = false) {
  options.speculation = {.source = DraftSource::kNgram, .max_tokens = 6, .adaptive = adaptive};
  return options;
}

class SpeculationTest : public EngineTest {
 protected:
  /// wrong_percent of all guesses are wrong; below 0: no guesses.
  void StartGuessing(int num_pages, int32_t wrong_percent, const EngineOptions& options = {},
                     const ToyOptions& toy = {}) {
    if (wrong_percent >= 0) {
      drafter_ = std::make_unique<ToyDrafter>(toy.vocab_size, wrong_percent);
    }
    Start(num_pages, wrong_percent < 0 ? options : With(options), toy);
  }

  /// Runs `request` without guesses and then with guesses from right to wrong.
  void ExpectSameWithGuesses(const Request& request, const EngineOptions& options = {},
                             const ToyOptions& toy = {}) {
    StartGuessing(40, -1, options, toy);
    const Output plain = Run(request);
    for (int32_t wrong_percent : {0, 30, 100}) {
      StartGuessing(40, wrong_percent, options, toy);
      ExpectSame(Run(request), plain, std::to_string(wrong_percent) + " % wrong");
      if (plain.ids.size() > 4) {
        EXPECT_GT(engine_->Stats().draft_tokens, 0u);
      }
      WaitFor([this] { return engine_->Stats().pages_in_use == 0; });
    }
  }
};

TEST_F(SpeculationTest, RightGuesses_SameTokensInFewerSteps) {
  StartGuessing(20, 0);
  std::vector<int32_t> ids = Prompt(21);
  const Output output = Run(Greedy(ids, 29));
  for (int32_t id : output.ids) {
    EXPECT_EQ(id, ToyModel::GreedyToken(ids, kVocab));
    ids.push_back(id);
  }
  EXPECT_EQ(output.ids.size(), 29u);
  // One token with the prompt, then 7 a step.
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.steps, 5u);
  EXPECT_EQ(stats.drafts, 4u);
  EXPECT_EQ(stats.draft_tokens, 24u);
  EXPECT_EQ(stats.accepted_draft_tokens, 24u);
  EXPECT_EQ(stats.generated_tokens, 29u);
  EXPECT_EQ(counters_.tokens.load(), 21 + 28);
}

TEST_F(SpeculationTest, WrongGuesses_SameTokensAndNoneAccepted) {
  StartGuessing(20, 100);
  std::vector<int32_t> ids = Prompt(21);
  const Output output = Run(Greedy(ids, 12));
  for (int32_t id : output.ids) {
    EXPECT_EQ(id, ToyModel::GreedyToken(ids, kVocab));
    ids.push_back(id);
  }
  EXPECT_EQ(engine_->Stats().steps, 12u);
  EXPECT_GT(engine_->Stats().draft_tokens, 30u);
  EXPECT_EQ(engine_->Stats().accepted_draft_tokens, 0u);
}

TEST_F(SpeculationTest, SampledAtSeveralTemperatures_SameTokensAndLogprobs) {
  for (const float temperature : {0.0f, 0.2f, 0.9f, 2.0f}) {
    for (uint64_t seed : {1u, 2u}) {
      Request request = Sampled(Prompt(30), 60, seed);
      request.sampling.temperature = temperature;
      request.num_logprobs = 3;
      ExpectSameWithGuesses(request);
    }
  }
}

TEST_F(SpeculationTest, PenaltiesAndBias_SeeAcceptedGuesses) {
  Request request = Greedy(Prompt(20), 60);
  request.sampling.repetition_penalty = 1.3f;
  request.sampling.frequency_penalty = 0.7f;
  request.sampling.presence_penalty = 0.4f;
  request.sampling.logit_bias = {{3, 4.0f}, {5, -2.0f}};
  ExpectSameWithGuesses(request);
}

TEST_F(SpeculationTest, StopIdAmongGuesses_EndsThere) {
  StartGuessing(20, -1);
  Request request = Greedy(Prompt(10), 60);
  const std::vector<int32_t> all = Run(request).ids;
  for (const size_t at : {0u, 1u, 3u, 7u, 8u, 20u}) {
    request.stop_ids = {all[at]};
    ExpectSameWithGuesses(request);
  }
}

TEST_F(SpeculationTest, LimitInsideGuesses_ExactlySoManyTokens) {
  for (int32_t max_tokens : {0, 1, 2, 7, 8, 9, 33}) {
    ExpectSameWithGuesses(Greedy(Prompt(16), max_tokens));
  }
  // The context is full before max_tokens.
  for (int32_t max_context : {17, 18, 32, 47, 48}) {
    ExpectSameWithGuesses(Greedy(Prompt(16), 100), {}, {.max_context = max_context});
  }
}

TEST_F(SpeculationTest, PromptLogprobs_Same) {
  Request request = Greedy(Prompt(100), 20);
  request.num_logprobs = 2;
  request.prompt_logprobs = true;
  ExpectSameWithGuesses(request, {.max_running = 4, .step_tokens = 24});
}

TEST_F(SpeculationTest, MaskAndOnToken_CalledInTurnForEachToken) {
  const auto run = [this](int32_t wrong_percent) {
    StartGuessing(20, wrong_percent);
    std::vector<int32_t> calls;  // -1: mask
    Request request = Sampled(Prompt(10), 40, 3);
    request.mask = [&calls](std::span<uint32_t> allowed) {
      // What is allowed depends on the tokens before, as in a grammar.
      const int32_t last = calls.empty() ? 0 : calls.back();
      calls.push_back(-1);
      if (last % 3 == 0) allowed[0] &= 0x0f0f0f0f;
    };
    request.on_token = [&calls](int32_t id) { calls.push_back(id); };
    const Output output = Run(request);
    EXPECT_EQ(calls.size(), 2 * output.ids.size());
    return calls;
  };
  const std::vector<int32_t> plain = run(-1);
  for (int32_t wrong_percent : {0, 30, 100}) EXPECT_EQ(run(wrong_percent), plain);
}

TEST_F(SpeculationTest, MaskThrowsAtAGuess_RequestFailsAtTheSameToken) {
  const auto run = [this](int32_t wrong_percent) {
    StartGuessing(20, wrong_percent);
    int calls = 0;
    Request request = Greedy(Prompt(10), 40);
    request.mask = [&calls](std::span<uint32_t>) {
      if (++calls == 11) throw std::runtime_error("grammar broke");
    };
    return Run(request);
  };
  const Output plain = run(-1);
  EXPECT_EQ(plain.finish.reason, FinishReason::kError);
  for (int32_t wrong_percent : {0, 30, 100}) ExpectSame(run(wrong_percent), plain, "throws");
}

TEST_F(SpeculationTest, NanBehindARightGuess_FailsAtTheSameToken) {
  ToyOptions toy;
  toy.change_row = [](uint64_t hash, std::span<float> row) {
    if (hash % 17 == 0) row[3] = std::nanf("");
  };
  for (int i = 0; i < 6; ++i) ExpectSameWithGuesses(Greedy(Prompt(10, i), 40), {}, toy);
}

TEST_F(SpeculationTest, SlowConsumer_StreamStaysAtItsBound) {
  StartGuessing(40, 0, {.stream_capacity = 8});
  auto slow = Submit(Greedy(Prompt(10), 100));
  EXPECT_EQ(Run(Greedy(Prompt(12), 100)).ids.size(), 100u);
  // A prompt event and 7 tokens fill the stream, in the middle of a step's guesses.
  WaitFor([this] { return engine_->Stats().generated_tokens == 107; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(engine_->Stats().generated_tokens, 107u);
  const Output output = ReadAll(slow.get());
  std::vector<int32_t> ids = Prompt(10);
  for (int32_t id : output.ids) {
    EXPECT_EQ(id, ToyModel::GreedyToken(ids, kVocab));
    ids.push_back(id);
  }
  EXPECT_EQ(output.ids.size(), 100u);
}

TEST_F(SpeculationTest, PrefixCache_SameHitsAfterwards) {
  // What a request leaves behind serves the next one as far as without guesses: also when it ended
  // in the middle of a step's guesses, and never with what a wrong guess has computed.
  std::vector<int32_t> plain_hits;
  for (int32_t wrong_percent : {-1, 0, 30, 100}) {
    StartGuessing(60, wrong_percent);
    std::vector<int32_t> hits;
    for (int32_t length : {5, 11, 12, 27, 60}) {
      const Output first = Run(Sampled(Prompt(37, length), length, 7));
      std::vector<int32_t> ids = Prompt(37, length);
      ids.insert(ids.end(), first.ids.begin(), first.ids.end());
      ids.push_back(1);
      hits.push_back(Run(Greedy(ids, 3)).prompt->cached_tokens);
    }
    if (wrong_percent < 0) plain_hits = hits;
    EXPECT_EQ(hits, plain_hits) << wrong_percent;
  }
}

TEST_F(SpeculationTest, StepThrows_ItsRequestsFailEngineGoesOn) {
  ToyOptions toy;
  toy.before_step = [](std::span<const model::SequenceChunk> chunks) {
    if (chunks[0].ids.size() == 7) throw std::runtime_error("out of luck");
  };
  StartGuessing(20, 0, {}, toy);
  const Output output = Run(Greedy(Prompt(5), 20));
  EXPECT_EQ(output.finish.reason, FinishReason::kError);
  EXPECT_NE(output.finish.error->message().find("out of luck"), std::string::npos);
  EXPECT_EQ(engine_->Stats().pages_in_use, 0);
  EXPECT_EQ(Run(Greedy(Prompt(4), 3)).ids.size(), 3u);
}

// Many sequences, hardly any pages, cancels and slow readers: preemption happens, and outputs are
// those of each request alone without guesses.
TEST_F(SpeculationTest, RandomTraffic_SameOutputsAsPlain) {
  const auto request = [](uint32_t i) {
    Request made =
        Sampled(Prompt(static_cast<int32_t>(1 + (i * 37) % 90), static_cast<int32_t>(i % 3)),
                static_cast<int32_t>(1 + (i * 53) % 70), i);
    made.sampling.temperature = i % 3 == 0 ? 0.0f : 0.3f * static_cast<float>(i % 5);
    made.num_logprobs = i % 4 == 0 ? 2 : -1;
    if (i % 5 == 0) made.stop_ids = {1, 2, 3, 4};
    return made;
  };
  constexpr uint32_t kRequests = 60;
  std::vector<Output> plain;
  StartGuessing(40, -1, {.prefix_cache = false});
  for (uint32_t i = 0; i < kRequests; ++i) plain.push_back(Run(request(i)));

  for (const int32_t wrong_percent : {0, 40, 100}) {
    for (const int num_pages : {11, 40}) {
      StartGuessing(num_pages, wrong_percent,
                    {.max_running = 8, .step_tokens = 20, .stream_capacity = 5});
      std::vector<std::thread> clients;
      for (uint32_t c = 0; c < 3; ++c) {
        clients.emplace_back([&, c] {
          std::mt19937 random(c);
          std::vector<std::pair<uint32_t, std::unique_ptr<RequestHandle>>> open;
          for (uint32_t i = c; i < kRequests; i += 3) {
            open.emplace_back(i, Submit(request(i)));
            if (random() % 6 == 0) {
              open.back().second->Next();
              open.back().second->Cancel();
              const Output output = ReadAll(open.back().second.get());
              EXPECT_LE(output.ids.size(), plain[i].ids.size());
              open.pop_back();
            }
            while (open.size() > 4 || (i + 3 >= kRequests && !open.empty())) {
              const size_t pick = random() % open.size();
              ExpectSame(ReadAll(open[pick].second.get()), plain[open[pick].first],
                         "request " + std::to_string(open[pick].first));
              open.erase(open.begin() + static_cast<std::ptrdiff_t>(pick));
            }
          }
        });
      }
      for (std::thread& client : clients) client.join();
      const EngineStats stats = engine_->Stats();
      EXPECT_GT(stats.draft_tokens, 100u);
      if (num_pages == 11) {
        EXPECT_GT(stats.preemptions, 0u);
      }
      WaitFor([this] { return engine_->Stats().pages_in_use == 0; });
    }
  }
}

// A text of three different tokens repeats itself all the time.
TEST_F(SpeculationTest, Ngram_RepetitiveText_SameTokensInFewerSteps) {
  ToyOptions toy{.vocab_size = 3};
  const auto run = [&](bool guessing) {
    EngineOptions options;
    if (guessing) options = With(options);
    Start(40, options, toy);
    std::vector<Output> outputs;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Request request = Sampled({0, 1, 2}, 100, seed);
      request.sampling.temperature = seed < 4 ? 0.1f : 1.0f;
      outputs.push_back(Run(request));
    }
    return outputs;
  };
  const std::vector<Output> plain = run(false);
  const uint64_t plain_steps = engine_->Stats().steps;
  const std::vector<Output> guessed = run(true);
  for (size_t i = 0; i < plain.size(); ++i) ExpectSame(guessed[i], plain[i], std::to_string(i));
  EXPECT_GT(engine_->Stats().accepted_draft_tokens, 100u);
  EXPECT_LT(engine_->Stats().steps, plain_steps);
}

// Steps that cost the same whatever their size: guessing pays. Steps that cost in proportion to
// their tokens: it does not, and only tries from time to time remain.
TEST_F(SpeculationTest, Adaptive_GuessesWhereItPays) {
  const auto run = [this](TimeUs step_us, TimeUs token_us, int32_t wrong_percent) {
    ToyOptions toy;
    toy.before_step = [=, this](std::span<const model::SequenceChunk> chunks) {
      clock_.AdvanceUs(step_us);
      for (const model::SequenceChunk& chunk : chunks) {
        clock_.AdvanceUs(token_us * static_cast<TimeUs>(chunk.ids.size()));
      }
    };
    if (wrong_percent >= 0) drafter_ = std::make_unique<ToyDrafter>(kVocab, wrong_percent);
    Start(40, wrong_percent < 0 ? EngineOptions{} : With({}, /*adaptive=*/true), toy);
    const TimeUs begin_us = clock_.NowUs();
    EXPECT_EQ(Run(Greedy(Prompt(10), 400)).ids.size(), 400u);
    return static_cast<double>(clock_.NowUs() - begin_us);
  };
  const auto relative = [&](TimeUs step_us, TimeUs token_us, int32_t wrong_percent) {
    const double plain_us = run(step_us, token_us, -1);
    return run(step_us, token_us, wrong_percent) / plain_us;
  };
  EXPECT_LT(relative(1000, 1, 0), 0.25);
  EXPECT_LT(relative(1000, 1, 30), 0.5);
  // Half of the cost of a token is its own: three in a row that mostly come true still pay.
  EXPECT_LT(relative(500, 500, 0), 0.75);
  // Wrong guesses: a few at first, then almost none.
  EXPECT_LT(relative(0, 1000, 100), 1.05);
  EXPECT_LT(engine_->Stats().draft_tokens, 20u);
  EXPECT_LT(relative(500, 500, 100), 1.05);
  EXPECT_LT(relative(900, 100, 100), 1.05);
  // Right half of the time, but no cheaper together than one by one.
  EXPECT_LT(relative(0, 1000, 50), 1.05);
}

TEST_F(SpeculationTest, BadOptions_RefusedWithAReason) {
  ToyCounters counters;
  EngineOptions options = With({.kv_bytes = 1 << 20});
  options.speculation.max_tokens = 0;
  const auto engine =
      Engine::Start(std::make_unique<ToyModel>(ToyOptions{}, &counters), &clock_, options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message().find("speculation.max_tokens is 0"), std::string::npos);
}

}  // namespace
}  // namespace halfmoon::engine
