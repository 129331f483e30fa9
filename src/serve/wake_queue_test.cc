// SPDX-License-Identifier: Apache-2.0
#include "serve/wake_queue.h"

#include <gtest/gtest.h>

namespace halfmoon::serve {
namespace {

TEST(WakeQueue, IdWokenTwice_WaitsOnce) {
  WakeQueue queue;
  queue.Wake(SessionId{1});
  queue.Wake(SessionId{2});
  queue.Wake(SessionId{1});
  EXPECT_EQ(queue.Pop(), SessionId{1});
  queue.Wake(SessionId{1});  // taken out, so it may wait again
  EXPECT_EQ(queue.Pop(), SessionId{2});
  EXPECT_EQ(queue.Pop(), SessionId{1});
}

TEST(WakeQueue, Closed_GivesNothingAndTakesNothing) {
  WakeQueue queue;
  queue.Wake(SessionId{1});
  queue.Close();
  EXPECT_EQ(queue.Pop(), std::nullopt);
  queue.Wake(SessionId{2});
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

}  // namespace
}  // namespace halfmoon::serve
