// SPDX-License-Identifier: Apache-2.0
#include "serve/server_state.h"

#include <gtest/gtest.h>

namespace halfmoon::serve {
namespace {

TEST(ServerState, Loading_EstimatesTheRest) {
  ManualClock clock;
  ServerState state(&clock);
  EXPECT_EQ(state.Refusal()->retry_after_s, 1);
  clock.AdvanceUs(10'000'000);
  state.SetLoadProgress(25, 100);
  EXPECT_EQ(state.Refusal()->retry_after_s, 30);  // three times as much is left as was done
  clock.AdvanceUs(10'000'000'000);
  EXPECT_EQ(state.Refusal()->retry_after_s, 120);
  state.SetLoadProgress(200, 100);  // a reporter that counts too far does no harm
  EXPECT_EQ(state.Refusal()->retry_after_s, 1);
}

TEST(ServerState, ShutdownDuringTheLoad_StaysOne) {
  ManualClock clock;
  ServerState state(&clock);
  state.BeginDrain();
  state.SetReady(nullptr);
  state.SetFailed(Error(ErrorCode::kIo, "gone"));
  EXPECT_EQ(state.phase(), Phase::kDraining);
  EXPECT_EQ(state.Refusal()->code, "shutting_down");
}

}  // namespace
}  // namespace halfmoon::serve
