// SPDX-License-Identifier: Apache-2.0
#include "cluster/remote_stream.h"

#include <gtest/gtest.h>

namespace halfmoon::cluster {
namespace {

TEST(RemoteStream, Credit_NeverExceedsTheRoomThatIsLeft) {
  RemoteStream stream(8);
  EXPECT_EQ(stream.TakeCredit(true), 8u);
  EXPECT_EQ(stream.TakeCredit(true), 0u);
  for (int i = 0; i < 5; ++i) stream.Push(TokenEvent{.id = i});
  EXPECT_EQ(stream.TakeCredit(true), 0u) << "nothing was taken yet";
  EXPECT_TRUE(stream.TryNext().has_value());
  EXPECT_EQ(stream.TakeCredit(false), 0u) << "a message for one event";
  EXPECT_EQ(stream.TakeCredit(true), 1u);
  // Another node goes on: what the one before had left is void.
  stream.ResetCredit();
  EXPECT_EQ(stream.TakeCredit(true), 4u);
}

TEST(RemoteStream, SkippedEvents_GiveTheirRoomBack) {
  RemoteStream stream(8);
  // As many as there may ever be: a node that goes on with a long prompt tells of each step.
  for (int round = 0; round < 100; ++round) {
    ASSERT_EQ(stream.TakeCredit(true), 8u) << round;
    for (int i = 0; i < 8; ++i) stream.Skip();
  }
  EXPECT_FALSE(stream.TryNext().has_value());
}

TEST(RemoteStream, Notify_RunsForWhatIsThereAndWhatComes) {
  RemoteStream stream(8);
  stream.Push(TokenEvent{});
  int notified = 0;
  stream.SetNotify([&] { ++notified; });
  EXPECT_EQ(notified, 1);
  stream.Push(TokenEvent{});
  EXPECT_EQ(notified, 2);
  stream.SetNotify(nullptr);
  stream.Push(TokenEvent{});
  EXPECT_EQ(notified, 2);
}

TEST(RemoteSequence, Dropped_TellsOnlyBeforeTheEnd) {
  const auto stream = std::make_shared<RemoteStream>(64);
  int taken = 0;
  int dropped = 0;
  const RemoteSequence::Callbacks callbacks{.on_taken = [&] { ++taken; },
                                            .on_dropped = [&] { ++dropped; }};
  {
    RemoteSequence sequence(stream, callbacks);
  }
  EXPECT_EQ(dropped, 1);
  for (int i = 0; i < 40; ++i) stream->Push(TokenEvent{.id = i});
  stream->Push(FinishEvent{});
  {
    RemoteSequence sequence(stream, callbacks);
    for (int i = 0; i < 40; ++i) {
      EXPECT_EQ(std::get<TokenEvent>(*sequence.TryNext()).id, i);
    }
    EXPECT_TRUE(std::holds_alternative<FinishEvent>(*sequence.TryNext()));
    EXPECT_FALSE(sequence.TryNext().has_value());
  }
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(dropped, 1);
}

TEST(RemoteSequence, AllTaken_AlwaysLeadsToCredit) {
  constexpr uint32_t kCapacity = 16;
  // Whatever was taken before the stream was full: a node that got no credit must get some.
  for (int before = 0; before < 16; ++before) {
    const auto stream = std::make_shared<RemoteStream>(kCapacity);
    uint32_t credit = 0;
    RemoteSequence sequence(
        stream, {.on_taken = [&] { credit += stream->TakeCredit(false); }, .on_dropped = [] {}});
    for (int i = 0; i < before; ++i) {
      stream->Push(TokenEvent{});
      ASSERT_TRUE(sequence.TryNext().has_value());
    }
    for (uint32_t i = 0; i < kCapacity; ++i) stream->Push(TokenEvent{});
    stream->ResetCredit();
    ASSERT_EQ(stream->TakeCredit(true), 0u) << "the stream is not full";
    credit = 0;
    while (sequence.TryNext().has_value()) {
    }
    EXPECT_GE(credit, kCapacity / 4) << before;
  }
}

}  // namespace
}  // namespace halfmoon::cluster
