// SPDX-License-Identifier: Apache-2.0
#include "cluster/running_request.h"

#include <gtest/gtest.h>

namespace halfmoon::cluster {
namespace {

Running Made(std::vector<int32_t> generated, int32_t max_tokens) {
  Running running;
  running.request = {.prompt_ids = {1, 2, 3}, .max_tokens = max_tokens, .stop_ids = {9}};
  running.generated = std::move(generated);
  return running;
}

TEST(RunningRequest, Rest_CountsWhatWasGenerated) {
  const GenerateRequest rest = RestOf(Made({4, 5}, 10));
  EXPECT_EQ(rest.prompt_ids, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(rest.resumed_tokens, 2);
  EXPECT_EQ(rest.max_tokens, 10);
}

TEST(RunningRequest, End_IsWhatTheNodeWouldHaveSaid) {
  const ServedModel model{.max_request_tokens = 8};
  EXPECT_EQ(EndOf(Made({}, 0), model), std::nullopt)
      << "nothing came: the prompt is computed again";
  EXPECT_EQ(EndOf(Made({4}, 2), model), std::nullopt);
  EXPECT_EQ(EndOf(Made({4, 5}, 2), model), FinishReason::kLength);
  EXPECT_EQ(EndOf(Made({4, 9}, 2), model), FinishReason::kStop)
      << "both: the node looks there first";
  EXPECT_EQ(EndOf(Made({9, 4}, 3), model), std::nullopt);
  EXPECT_EQ(EndOf(Made({4, 5, 6, 7}, 9), model), std::nullopt);
  EXPECT_EQ(EndOf(Made({4, 5, 6, 7, 8}, 9), model), FinishReason::kLength) << "the context is full";
  EXPECT_EQ(EndOf(Made({4, 5, 6, 7, 8}, 9), std::nullopt), std::nullopt);
}

}  // namespace
}  // namespace halfmoon::cluster
