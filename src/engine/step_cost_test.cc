// SPDX-License-Identifier: Apache-2.0
#include "engine/step_cost.h"

#include <gtest/gtest.h>

#include <random>

namespace halfmoon::engine {
namespace {

constexpr double kFixedUs = 4000.0;
constexpr double kTokenUs = 300.0;
constexpr double kPositionUs = 0.02;
constexpr double kDecodeUs = 9000.0;

StepSample Chunk(int32_t tokens, int32_t start, int32_t decode_rows = 0) {
  const double attended = tokens * (start + (tokens + 1) / 2.0);
  return {.decode_rows = decode_rows,
          .prompt_tokens = tokens,
          .attended = attended,
          .us = (decode_rows > 0 ? kDecodeUs : 0.0) + kFixedUs + kTokenUs * tokens +
                kPositionUs * attended};
}

double Predict(const StepCosts& costs, int32_t tokens, int32_t start) {
  return costs.prompt().fixed_us + costs.prompt().Us(tokens, start);
}

double Truth(int32_t tokens, int32_t start) { return Chunk(tokens, start).us; }

TEST(StepCosts, NothingSeen_NothingKnown) {
  StepCosts costs;
  EXPECT_EQ(costs.DecodeUs(1), 0.0);
  EXPECT_EQ(costs.prompt().token_us, 0.0);
  // A clock that stands still tells nothing.
  costs.Observe({.decode_rows = 1, .us = 0.0});
  costs.Observe({.prompt_tokens = 8, .attended = 36.0, .us = 0.0});
  EXPECT_EQ(costs.DecodeUs(1), 0.0);
  EXPECT_EQ(costs.prompt().token_us, 0.0);
}

TEST(StepCosts, OneChunk_TakesItAsInProportion) {
  StepCosts costs;
  costs.Observe(Chunk(512, 0));
  EXPECT_NEAR(Predict(costs, 512, 0), Truth(512, 0), 1.0);
  EXPECT_NEAR(Predict(costs, 64, 0), Truth(512, 0) / 8, 1.0);
}

TEST(StepCosts, ChunksOfManySizesAndDepths_FindsAllTerms) {
  StepCosts costs;
  costs.Observe({.decode_rows = 4, .us = kDecodeUs});
  int32_t start = 0;
  for (const int32_t tokens : {512, 512, 64, 128, 512, 16, 64, 256, 512, 32}) {
    costs.Observe(Chunk(tokens, start, tokens < 512 ? 4 : 0));
    start += 2000;
  }
  for (const int32_t tokens : {16, 100, 512}) {
    for (const int32_t at : {0, 10'000, 30'000}) {
      EXPECT_NEAR(Predict(costs, tokens, at) / Truth(tokens, at), 1.0, 0.02) << tokens << " " << at;
    }
  }
}

TEST(StepCosts, EqualChunks_StillFindsWhatDepthCosts) {
  StepCosts costs;
  for (int32_t start = 0; start < 20'000; start += 256) costs.Observe(Chunk(256, start));
  EXPECT_NEAR(Predict(costs, 256, 30'000) / Truth(256, 30'000), 1.0, 0.02);
}

TEST(StepCosts, NoiseAndOutliers_PredictionStaysClose) {
  std::mt19937 random(5);
  StepCosts costs;
  int32_t start = 0;
  for (int i = 0; i < 200; ++i) {
    StepSample sample = Chunk(static_cast<int32_t>(16 + random() % 240), start);
    sample.us *= 0.9 + 0.2 * static_cast<double>(random() % 1000) / 1000.0;
    if (i % 17 == 16) sample.us *= 50.0;  // something else had the machine
    costs.Observe(sample);
    start += 100;
  }
  for (const int32_t tokens : {32, 128, 256}) {
    EXPECT_NEAR(Predict(costs, tokens, 20'000) / Truth(tokens, 20'000), 1.0, 0.2) << tokens;
  }
}

TEST(StepCosts, CostsThatChange_AreFollowed) {
  StepCosts costs;
  for (int i = 0; i < 100; ++i) costs.Observe(Chunk(128, 0));
  for (int i = 0; i < 200; ++i) {
    StepSample sample = Chunk(128, 0);
    sample.us *= 4.0;
    costs.Observe(sample);
  }
  EXPECT_NEAR(Predict(costs, 128, 0) / Truth(128, 0), 4.0, 0.2);
}

TEST(StepCosts, ChunkBesideUnknownDecoding_SaysNothing) {
  StepCosts costs;
  costs.Observe(Chunk(64, 0, 3));
  EXPECT_EQ(costs.prompt().token_us, 0.0);
  costs.Observe({.decode_rows = 3, .us = kDecodeUs});
  costs.Observe(Chunk(64, 0, 3));
  EXPECT_NEAR(Predict(costs, 64, 0), Truth(64, 0), 1.0);
}

}  // namespace
}  // namespace halfmoon::engine
