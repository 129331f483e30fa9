// SPDX-License-Identifier: Apache-2.0
#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace halfmoon::sched {

void PrintTo(const Share& share, std::ostream* out) {
  *out << static_cast<uint64_t>(share.id) << ":" << share.tokens << "+" << share.new_pages;
}

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Limits kLimits{.step_tokens = 8, .max_running = 4, .block_size = 4};

auto Gets(uint64_t id, int32_t tokens, int32_t new_pages) {
  return ::testing::AllOf(::testing::Field(&Share::id, SeqId{id}),
                          ::testing::Field(&Share::tokens, tokens),
                          ::testing::Field(&Share::new_pages, new_pages));
}

TEST(MakePlan, NothingThere_EmptyPlan) {
  const Plan plan = MakePlan({.limits = kLimits, .available_pages = 10});
  EXPECT_THAT(plan.shares, IsEmpty());
}

TEST(MakePlan, DecodeBesideLongPrefill_DecodeFirstRestToPrefill) {
  const Plan plan = MakePlan(
      {.limits = kLimits,
       .available_pages = 100,
       .running = {{.id = SeqId{1}, .wanted_tokens = 100, .computed_tokens = 0},
                   {.id = SeqId{2}, .wanted_tokens = 6, .computed_tokens = 5, .pages = 2}}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 7, 2), Gets(2, 1, 0)));
}

TEST(MakePlan, ShortPromptBehindLong_BothGetShares) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 100,
                              .running = {{.id = SeqId{1}, .wanted_tokens = 100},
                                          {.id = SeqId{2}, .wanted_tokens = 50},
                                          {.id = SeqId{3}, .wanted_tokens = 3}}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 4, 1), Gets(2, 1, 1), Gets(3, 3, 1)));
}

TEST(MakePlan, ShareLimitOfSequence_Kept) {
  const Plan plan =
      MakePlan({.limits = kLimits,
                .available_pages = 100,
                .running = {{.id = SeqId{1}, .wanted_tokens = 100, .max_share_tokens = 2}}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 2, 1)));
}

TEST(MakePlan, Admission_FirstComeAndOnlyWithPages) {
  // 5 pages: the first needs 3, the second 3; the third would fit but does not overtake.
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 5,
                              .waiting = {{.id = SeqId{3}, .wanted_tokens = 1},
                                          {.id = SeqId{1}, .wanted_tokens = 12},
                                          {.id = SeqId{2}, .wanted_tokens = 9}}});
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{1}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 8, 2)));
}

TEST(MakePlan, Turns_PriorityThenOrderThenArrival) {
  // Pages for two of four.
  const Plan plan =
      MakePlan({.limits = kLimits,
                .available_pages = 3,
                .waiting = {{.id = SeqId{1}, .wanted_tokens = 4, .priority = 1},
                            {.id = SeqId{2}, .wanted_tokens = 4, .priority = -1, .order_us = 9},
                            {.id = SeqId{3}, .wanted_tokens = 4, .priority = -1, .order_us = 9},
                            {.id = SeqId{4}, .wanted_tokens = 4, .priority = -1, .order_us = 5}}});
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{4}, SeqId{2}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(4, 4, 1), Gets(2, 4, 1)));
}

TEST(MakePlan, TurnsOfPrompts_FirstGetsHalfAndShortestOfItsPriorityTheRest) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 100,
                              .running = {{.id = SeqId{1}, .wanted_tokens = 2, .priority = 1},
                                          {.id = SeqId{2}, .wanted_tokens = 50, .order_us = 2},
                                          {.id = SeqId{3}, .wanted_tokens = 3, .order_us = 3},
                                          {.id = SeqId{4}, .wanted_tokens = 100, .order_us = 1}}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(4, 4, 1), Gets(2, 1, 1), Gets(3, 3, 1)));
}

TEST(MakePlan, NoPageLeft_LatestTurnIsPreempted) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 0,
                              .running = {{.id = SeqId{1},
                                           .wanted_tokens = 5,
                                           .computed_tokens = 4,
                                           .pages = 1,
                                           .private_pages = 1,
                                           .priority = 1},
                                          {.id = SeqId{2},
                                           .wanted_tokens = 5,
                                           .computed_tokens = 4,
                                           .pages = 1,
                                           .private_pages = 1}}});
  EXPECT_THAT(plan.preempt, ElementsAre(SeqId{1}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(2, 1, 1)));
}

// A token of a prompt takes 10 us and each step with some 5 us more.
TEST(MakePlan, ChunkLimitOfSequence_KeptWhileOthersDecode) {
  State state{.limits = {.step_tokens = 16, .max_running = 4, .block_size = 4},
              .prompts = {.cost = {.fixed_us = 5.0, .token_us = 10.0}},
              .available_pages = 100,
              .running = {{.id = SeqId{1}, .wanted_tokens = 100, .max_chunk_us = 47.0},
                          {.id = SeqId{2}, .wanted_tokens = 6, .computed_tokens = 5, .pages = 2}}};
  EXPECT_THAT(MakePlan(state).shares, ElementsAre(Gets(1, 4, 1), Gets(2, 1, 0)));
  // Too little for any token: one, or it would wait as long as others decode.
  state.running[0].max_chunk_us = 7.0;
  EXPECT_THAT(MakePlan(state).shares, ElementsAre(Gets(1, 1, 1), Gets(2, 1, 0)));
  state.running.pop_back();
  EXPECT_THAT(MakePlan(state).shares, ElementsAre(Gets(1, 16, 4)));
}

TEST(MakePlan, AdmissionWithPrefixHit_ComputesTheRest) {
  const Plan plan = MakePlan(
      {.limits = kLimits,
       .available_pages = 3,
       .waiting = {{.id = SeqId{1}, .wanted_tokens = 11, .hit_pages = 2, .hit_cached_pages = 2}}});
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{1}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 3, 1)));
}

TEST(MakePlan, HitTakesTheLastEvictablePages_NotAdmitted) {
  const Plan plan = MakePlan(
      {.limits = kLimits,
       .available_pages = 2,
       .waiting = {{.id = SeqId{1}, .wanted_tokens = 11, .hit_pages = 2, .hit_cached_pages = 2}}});
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(MakePlan, AdmissionWithLoad_TakesItsPagesAndGetsNoShare) {
  const WaitingSequence waiting{
      .id = SeqId{1}, .wanted_tokens = 15, .hit_pages = 1, .load_pages = 2};
  const Plan plan = MakePlan({.limits = kLimits, .available_pages = 3, .waiting = {waiting}});
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{1}));
  ASSERT_EQ(plan.loads.size(), 1u);
  EXPECT_EQ(plan.loads[0].id, SeqId{1});
  EXPECT_EQ(plan.loads[0].pages, 2);
  EXPECT_THAT(plan.shares, IsEmpty());
  // What is computed after the load needs a page too.
  EXPECT_THAT(MakePlan({.limits = kLimits, .available_pages = 2, .waiting = {waiting}}).admit,
              IsEmpty());
}

TEST(MakePlan, LoadingSequence_IsNeitherServedNorPreempted) {
  const auto full = [](uint64_t id) {
    return RunningSequence{
        .id = SeqId{id}, .wanted_tokens = 5, .computed_tokens = 4, .pages = 1, .private_pages = 1};
  };
  RunningSequence loading = full(3);
  loading.loading = true;
  for (const bool paused : {false, true}) {
    loading.paused = paused;
    const Plan plan = MakePlan({.limits = kLimits, .running = {full(1), full(2), loading}});
    EXPECT_THAT(plan.preempt, ElementsAre(SeqId{2}));
    EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 1, 1)));
  }
  // Nobody else is left to take a page from: it waits for the load.
  const Plan plan = MakePlan({.limits = kLimits, .running = {full(1), loading}});
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.shares, IsEmpty());
}

TEST(MakePlan, DeferredOrPausedWaiting_OvertakenByNext) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 10,
                              .waiting = {{.id = SeqId{1}, .wanted_tokens = 2, .deferred = true},
                                          {.id = SeqId{2}, .wanted_tokens = 2, .paused = true},
                                          {.id = SeqId{3}, .wanted_tokens = 2}}});
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{3}));
}

TEST(MakePlan, BatchFull_NobodyAdmitted) {
  Limits limits = kLimits;
  limits.max_running = 1;
  const Plan plan =
      MakePlan({.limits = limits,
                .available_pages = 10,
                .running = {{.id = SeqId{1}, .wanted_tokens = 6, .computed_tokens = 5, .pages = 2}},
                .waiting = {{.id = SeqId{2}, .wanted_tokens = 2}}});
  EXPECT_THAT(plan.admit, IsEmpty());
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(MakePlan, NoPageLeft_LatestIsPreempted) {
  const auto full = [](uint64_t id) {
    return RunningSequence{
        .id = SeqId{id}, .wanted_tokens = 5, .computed_tokens = 4, .pages = 1, .private_pages = 1};
  };
  const Plan plan = MakePlan({.limits = kLimits, .running = {full(1), full(2), full(3)}});
  // 3 goes for the page of 1; then 2 finds nobody later and waits with what it has.
  EXPECT_THAT(plan.preempt, ElementsAre(SeqId{3}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 1, 1)));
}

TEST(MakePlan, NoPageLeft_PausedGoesBeforeLatest) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .running = {{.id = SeqId{1},
                                           .wanted_tokens = 5,
                                           .computed_tokens = 4,
                                           .pages = 1,
                                           .private_pages = 1,
                                           .paused = true},
                                          {.id = SeqId{2},
                                           .wanted_tokens = 5,
                                           .computed_tokens = 4,
                                           .pages = 1,
                                           .private_pages = 1}}});
  EXPECT_THAT(plan.preempt, ElementsAre(SeqId{1}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(2, 1, 1)));
}

TEST(MakePlan, NewcomerBlockedByPaused_PausedMakesRoom) {
  const RunningSequence paused{.id = SeqId{1},
                               .wanted_tokens = 16,
                               .computed_tokens = 15,
                               .pages = 4,
                               .private_pages = 4,
                               .paused = true};
  const Plan plan = MakePlan(
      {.limits = kLimits, .running = {paused}, .waiting = {{.id = SeqId{2}, .wanted_tokens = 8}}});
  EXPECT_THAT(plan.preempt, ElementsAre(SeqId{1}));
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{2}));
  EXPECT_THAT(plan.shares, ElementsAre(Gets(2, 8, 2)));
  // But not where even that is not enough.
  const Plan futile = MakePlan(
      {.limits = kLimits, .running = {paused}, .waiting = {{.id = SeqId{2}, .wanted_tokens = 32}}});
  EXPECT_THAT(futile.preempt, IsEmpty());
  EXPECT_THAT(futile.admit, IsEmpty());
}

TEST(MakePlan, MoreDecodesThanBudget_ServedLongestAgoFirst) {
  const auto decode = [](uint64_t id, int64_t served_step) {
    return RunningSequence{.id = SeqId{id},
                           .wanted_tokens = 3,
                           .computed_tokens = 2,
                           .pages = 1,
                           .served_step = served_step};
  };
  const Plan plan = MakePlan({.limits = {.step_tokens = 2, .max_running = 2, .block_size = 4},
                              .running = {decode(1, 9), decode(2, 7)},
                              .waiting = {}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 1, 0), Gets(2, 1, 0)));
}

TEST(MakePlan, PrefillWithTooFewPages_ComputesWhatFits) {
  const Plan plan = MakePlan({.limits = kLimits,
                              .available_pages = 1,
                              .running = {{.id = SeqId{1}, .wanted_tokens = 100}}});
  EXPECT_THAT(plan.shares, ElementsAre(Gets(1, 4, 1)));
}

TEST(MakePlanDeathTest, BudgetBelowBatch_Dies) {
  EXPECT_DEATH(MakePlan({.limits = {.step_tokens = 1, .max_running = 2, .block_size = 4}}),
               "1 tokens for 2 sequences");
}

auto GetsDrafts(uint64_t id, int32_t drafts, int32_t new_pages) {
  return ::testing::AllOf(Gets(id, 1, new_pages), ::testing::Field(&Share::draft_tokens, drafts));
}

constexpr Limits kDraftLimits{
    .step_tokens = 16, .max_running = 4, .block_size = 4, .draft_tokens = 8};

RunningSequence Guessing(uint64_t id, int32_t wanted, int32_t drafts) {
  return {.id = SeqId{id},
          .wanted_tokens = wanted,
          .computed_tokens = wanted - 1,
          .pages = PagesFor(wanted - 1, 4),
          .private_pages = PagesFor(wanted - 1, 4),
          .draft_tokens = drafts};
}

TEST(MakePlan, Drafts_EachGetsOneBeforeAnyGetsTwo) {
  const Plan plan =
      MakePlan({.limits = kDraftLimits,
                .available_pages = 100,
                .running = {Guessing(1, 1, 8), Guessing(2, 1, 2), Guessing(3, 1, 8)}});
  EXPECT_THAT(plan.shares,
              ElementsAre(GetsDrafts(1, 3, 1), GetsDrafts(2, 2, 1), GetsDrafts(3, 3, 1)));
}

TEST(MakePlan, DraftsBesidePrefill_OnlyWhatItLeaves) {
  const auto drafts = [](int32_t prompt) {
    const Plan plan =
        MakePlan({.limits = kDraftLimits,
                  .available_pages = 100,
                  .running = {Guessing(1, 6, 8),
                              {.id = SeqId{2}, .wanted_tokens = prompt, .draft_tokens = 8}}});
    EXPECT_EQ(plan.shares[1].tokens, std::min(prompt, 15));
    EXPECT_EQ(plan.shares[1].draft_tokens, 0);
    return plan.shares[0].draft_tokens;
  };
  EXPECT_EQ(drafts(100), 0);
  EXPECT_EQ(drafts(15), 0);
  EXPECT_EQ(drafts(12), 3);
  EXPECT_EQ(drafts(2), 8);
}

TEST(MakePlan, DraftsWithoutPages_OnlyInPagesHeld) {
  // 1 and 2 each hold a page with two slots left after their token; the one page there is goes to
  // 3, which needs it for its token, though it arrived last.
  const State state{.limits = kDraftLimits,
                    .available_pages = 1,
                    .running = {Guessing(1, 2, 8), Guessing(2, 2, 8), Guessing(3, 5, 1)}};
  const Plan plan = MakePlan(state);
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.shares,
              ElementsAre(GetsDrafts(1, 2, 0), GetsDrafts(2, 2, 0), GetsDrafts(3, 1, 1)));
}

TEST(MakePlan, DraftsDoNotDelayAdmission) {
  const State state{.limits = kDraftLimits,
                    .available_pages = 4,
                    .running = {Guessing(1, 5, 8)},
                    .waiting = {{.id = SeqId{2}, .wanted_tokens = 8}}};
  const Plan plan = MakePlan(state);
  EXPECT_THAT(plan.admit, ElementsAre(SeqId{2}));
  // 1 page for its own token, 2 for the other's prompt, 1 left.
  EXPECT_THAT(plan.shares, ElementsAre(GetsDrafts(1, 7, 2), Gets(2, 8, 2)));
}

TEST(MakePlan, PausedOrPreempted_NoDrafts) {
  State state{.limits = kDraftLimits,
              .available_pages = 0,
              .running = {Guessing(1, 5, 8), Guessing(2, 4, 8), Guessing(3, 3, 8)}};
  state.running[1].paused = true;
  const Plan plan = MakePlan(state);
  EXPECT_THAT(plan.preempt, ElementsAre(SeqId{2}));
  EXPECT_THAT(plan.shares, ElementsAre(GetsDrafts(1, 3, 1), GetsDrafts(3, 1, 0)));
}

}  // namespace
}  // namespace halfmoon::sched
