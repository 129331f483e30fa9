// SPDX-License-Identifier: Apache-2.0
#include "sched/sequence_table.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "sched/schedule_simulator.h"

namespace halfmoon::sched {
namespace {

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TableOptions Options(int32_t num_pages) {
  return {.limits = {.step_tokens = 16, .max_running = 4, .block_size = 4}, .num_pages = num_pages};
}

void RunToEnd(ScheduleSimulator* simulator) {
  for (int step = 0; step < 10000 && !simulator->remaining().empty(); ++step) {
    simulator->Step();
    ASSERT_EQ(simulator->violation(), "");
  }
  ASSERT_TRUE(simulator->remaining().empty());
}

TEST(SequenceTable, SamePromptAgain_ReusesWholeBlocksButTheLastToken) {
  ScheduleSimulator simulator(Options(20));
  simulator.Add(SeqId{1}, Tokens(12), 1);
  RunToEnd(&simulator);
  simulator.Add(SeqId{2}, Tokens(12), 1);
  const SimulatedStep step = simulator.Step();
  // All 12 tokens are cached, but the logits of the last are needed, so its block is computed.
  ASSERT_EQ(step.plan.shares.size(), 1u);
  EXPECT_EQ(step.plan.shares[0].tokens, 4);
  EXPECT_EQ(simulator.violation(), "");
}

TEST(SequenceTable, SamePromptsTogether_ComputedOnce) {
  ScheduleSimulator simulator(Options(20));
  for (uint64_t id = 1; id <= 4; ++id) simulator.Add(SeqId{id}, Tokens(14), 3);
  SimulatedStep step = simulator.Step();
  ASSERT_EQ(step.plan.shares.size(), 1u);
  EXPECT_EQ(step.plan.shares[0].tokens, 14);
  step = simulator.Step();
  ASSERT_EQ(step.plan.shares.size(), 4u);
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(step.plan.shares[i].tokens, 2);
  RunToEnd(&simulator);
}

TEST(SequenceTable, SameBlockComputedTwice_OnePageStays) {
  TableOptions options = Options(20);
  options.limits.step_tokens = 4;
  ScheduleSimulator simulator(options);
  // The second is shorter, so it does not wait for the first; both compute the block 0..3.
  simulator.Add(SeqId{1}, Tokens(1, 50), 30);
  simulator.Add(SeqId{2}, Tokens(20, 100), 1);
  simulator.Add(SeqId{3}, Tokens(20), 1);
  simulator.Add(SeqId{4}, Tokens(8), 1);
  RunToEnd(&simulator);
}

TEST(SequenceTable, PrefixCacheOff_NothingIsKept) {
  TableOptions options = Options(20);
  options.prefix_cache = false;
  ScheduleSimulator simulator(options);
  simulator.Add(SeqId{1}, Tokens(12), 2);
  RunToEnd(&simulator);
  EXPECT_EQ(simulator.table().pool().num_cached(), 0);
  EXPECT_EQ(simulator.table().pool().num_free(), 20);
}

TEST(SequenceTable, ReuseLimit_TokensBeyondItAreComputed) {
  SequenceTable table(Options(20));
  const kv::BlockKey seed = kv::SeedKey({.block_size = 4});
  table.Add(SeqId{1}, {.ids = Tokens(12), .seed = seed});
  const Plan first = table.BeginStep();
  table.CountComputed(first.shares);
  table.EndStep(first.shares);
  table.Add(SeqId{2}, {.ids = Tokens(12), .seed = seed, .reuse_limit_tokens = 5});
  table.Append(SeqId{1}, 1);
  table.BeginStep();
  EXPECT_EQ(table.At(SeqId{2}).reused_tokens, 4);
}

TEST(SequenceTable, Load_CountsWhatArrivesAndComputesTheRest) {
  for (int32_t arriving = 0; arriving <= 3; ++arriving) {
    ScheduleSimulator simulator(Options(20));
    simulator.SetStored(SeqId{1}, {.blocks = 3, .arriving = arriving, .steps = 2});
    simulator.Add(SeqId{1}, Tokens(14), 2);
    const SimulatedStep first = simulator.Step();
    ASSERT_EQ(first.plan.loads.size(), 1u);
    EXPECT_EQ(first.plan.loads[0].pages, 3);
    EXPECT_TRUE(simulator.Step().plan.shares.empty());
    const SimulatedStep third = simulator.Step();
    ASSERT_EQ(third.plan.shares.size(), 1u);
    EXPECT_EQ(third.plan.shares[0].tokens, 14 - 4 * arriving);
    EXPECT_EQ(simulator.table().At(SeqId{1}).reused_tokens, 4 * arriving);
    // Who comes next finds all blocks in pages.
    simulator.Add(SeqId{2}, Tokens(14), 1);
    RunToEnd(&simulator);
    EXPECT_EQ(simulator.table().pool().num_in_use(), 0);
  }
}

TEST(SequenceTable, LoadAfterAHit_StartsBehindIt) {
  ScheduleSimulator simulator(Options(20));
  simulator.Add(SeqId{1}, Tokens(8), 1);
  RunToEnd(&simulator);
  simulator.SetStored(SeqId{2}, {.blocks = 4, .arriving = 4});
  simulator.Add(SeqId{2}, Tokens(17), 1);
  const SimulatedStep step = simulator.Step();
  ASSERT_EQ(step.plan.loads.size(), 1u);
  EXPECT_EQ(step.plan.loads[0].pages, 2);
  RunToEnd(&simulator);
}

TEST(SequenceTable, CancelledWhileLoading_KeepsItsPagesUntilTheEnd) {
  ScheduleSimulator simulator(Options(6));
  simulator.SetStored(SeqId{1}, {.blocks = 4, .arriving = 4, .steps = 5});
  simulator.Add(SeqId{1}, Tokens(17), 1);
  simulator.Step();
  simulator.Cancel(SeqId{1});
  EXPECT_EQ(simulator.table().pool().num_in_use(), 4);
  // It wants more pages than are left meanwhile.
  simulator.Add(SeqId{2}, Tokens(17, 100), 1);
  EXPECT_TRUE(simulator.Step().plan.shares.empty());
  RunToEnd(&simulator);
  EXPECT_EQ(simulator.table().pool().num_in_use(), 0);
}

class AllLoadable final : public BlockLoads {
 public:
  int32_t Loadable(SeqId, std::span<const kv::BlockKey> keys, int32_t) override {
    return static_cast<int32_t>(keys.size());
  }
};

TEST(SequenceTable, AbandonedLoad_GoesOnWithWhatCameAndLeavesThePagesToTheWriter) {
  for (const bool gone_meanwhile : {false, true}) {
    AllLoadable loads;
    TableOptions options = Options(12);
    options.loads = &loads;
    SequenceTable table(options);
    const SeqId id{1};
    table.Add(id, {.ids = Tokens(14), .seed = kv::SeedKey({.block_size = 4})});
    ASSERT_EQ(table.BeginStep().loads.size(), 1u);
    table.AbandonLoad(id, 1);
    EXPECT_EQ(table.At(id).computed_tokens, 4);
    EXPECT_EQ(table.At(id).pages.size(), 1u);
    EXPECT_EQ(table.pool().num_in_use(), 3) << "two are still written to";
    const Plan plan = table.BeginStep();
    EXPECT_TRUE(plan.loads.empty());
    ASSERT_EQ(plan.shares.size(), 1u);
    EXPECT_EQ(plan.shares[0].tokens, 10);
    table.CountComputed(plan.shares);
    table.EndStep(plan.shares);
    EXPECT_EQ(table.pool().num_in_use(), 6);
    if (gone_meanwhile) table.Remove(id);
    table.EndLoad(id, 3);
    EXPECT_EQ(table.pool().num_in_use(), gone_meanwhile ? 0 : 4);
    // Of one that has gone nothing is left to abandon.
    if (gone_meanwhile) table.AbandonLoad(id, 0);
  }
}

TEST(SequenceTable, TwoThatLoadTheSame_LoadItOnce) {
  ScheduleSimulator simulator(Options(30));
  for (uint64_t id = 1; id <= 2; ++id) {
    simulator.SetStored(SeqId{id}, {.blocks = 3, .arriving = 3, .steps = 3});
    simulator.Add(SeqId{id}, Tokens(14), 1);
  }
  int32_t loaded = 0;
  for (int step = 0; step < 20 && !simulator.remaining().empty(); ++step) {
    for (const Load& load : simulator.Step().plan.loads) loaded += load.pages;
    ASSERT_EQ(simulator.violation(), "");
  }
  EXPECT_TRUE(simulator.remaining().empty());
  EXPECT_EQ(loaded, 3);
}

TEST(SequenceTable, SealedBlocks_AreToldOnceAndCanBeHeld) {
  TableOptions options = Options(8);
  options.note_sealed = true;
  SequenceTable table(options);
  table.Add(SeqId{1}, {.ids = Tokens(9), .seed = kv::SeedKey({.block_size = 4})});
  const Plan plan = table.BeginStep();
  table.CountComputed(plan.shares);
  table.EndStep(plan.shares);
  std::vector<kv::BlockKey> keys;
  table.TakeSealed(&keys);
  ASSERT_EQ(keys.size(), 2u);
  table.TakeSealed(&keys);
  EXPECT_EQ(keys.size(), 2u);
  {
    const std::optional<kv::PageRef> page = table.HoldBlock(keys[1]);
    ASSERT_TRUE(page.has_value());
    table.Remove(SeqId{1});
    EXPECT_EQ(table.pool().num_in_use(), 1);
    // All pages but that one: the block before it has to go, so this one cannot be found any more.
    table.Add(SeqId{2}, {.ids = Tokens(26, 100), .seed = kv::SeedKey({.block_size = 4})});
    const Plan next = table.BeginStep();
    EXPECT_EQ(next.admit.size(), 1u);
    for (int step = 0; step < 2; ++step) {
      const Plan more = step == 0 ? next : table.BeginStep();
      table.CountComputed(more.shares);
      table.EndStep(more.shares);
    }
    EXPECT_EQ(table.pool().num_in_use(), 8);
    EXPECT_FALSE(table.HoldBlock(keys[0]).has_value());
    EXPECT_FALSE(table.HoldBlock(keys[1]).has_value());
  }
  EXPECT_EQ(table.pool().num_in_use(), 7);
}

TEST(SequenceTable, OtherSeed_SharesNothing) {
  SequenceTable table(Options(20));
  table.Add(SeqId{1},
            {.ids = Tokens(12), .seed = kv::SeedKey({.block_size = 4, .tenant_salt = "a"})});
  const Plan first = table.BeginStep();
  table.CountComputed(first.shares);
  table.EndStep(first.shares);
  table.Remove(SeqId{1});
  table.Add(SeqId{2},
            {.ids = Tokens(12), .seed = kv::SeedKey({.block_size = 4, .tenant_salt = "b"})});
  table.BeginStep();
  EXPECT_EQ(table.At(SeqId{2}).reused_tokens, 0);
}

// Arrivals, lengths, common prefixes, cancels and slow consumers by chance, in page budgets from
// roomy to hardly enough for one. The simulator checks the invariants in each step; here is checked
// that everyone who is not cancelled ends, and that nothing is left.
TEST(SequenceTable, RandomTraffic_EveryoneEndsAndInvariantsHold) {
  int64_t preemptions = 0;
  int64_t reused = 0;
  int64_t guesses = 0;
  int64_t accepted = 0;
  int64_t loads = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&random](uint32_t limit) { return static_cast<int32_t>(random() % limit); };
    TableOptions options;
    options.limits.max_running = 1 + below(6);
    options.limits.step_tokens = options.limits.max_running + below(24);
    options.limits.block_size = 1 + below(6);
    options.prefix_cache = below(4) != 0;
    const bool guessing = below(2) == 0;
    options.limits.draft_tokens = guessing ? below(20) : 0;
    const int32_t longest = 40;
    options.num_pages = PagesFor(longest, options.limits.block_size) + below(30);
    ScheduleSimulator simulator(options);
    uint64_t next_id = 1;
    std::map<SeqId, bool> paused;
    const int total = 40;
    int step = 0;
    while (static_cast<int>(next_id) <= total || !simulator.remaining().empty()) {
      ASSERT_LT(++step, 20000) << "seed " << seed;
      while (static_cast<int>(next_id) <= total && below(4) == 0) {
        std::vector<int32_t> prompt(static_cast<size_t>(1 + below(30)));
        for (size_t i = 0; i < prompt.size(); ++i) {
          prompt[i] = static_cast<int32_t>(i) + 100 * below(i < 16 ? 1 : 2);
        }
        const auto room = static_cast<uint32_t>(longest - static_cast<int32_t>(prompt.size()));
        if (seed % 3 == 0) simulator.SetTurn(SeqId{next_id}, below(3) - 1, step + below(20));
        if (guessing) simulator.SetGuesses(SeqId{next_id}, {.wanted = below(7), .right = below(7)});
        if (seed % 2 == 1 && below(2) == 0) {
          const int32_t stored = below(8);
          simulator.SetStored(SeqId{next_id}, {.blocks = stored,
                                               .arriving = below(3) == 0 ? below(8) : stored,
                                               .steps = 1 + below(6)});
        }
        simulator.Add(SeqId{next_id++}, std::move(prompt), 1 + below(room));
      }
      if (!simulator.remaining().empty()) {
        auto it = simulator.remaining().begin();
        std::advance(it, below(static_cast<uint32_t>(simulator.remaining().size())));
        const int32_t dice = below(20);
        if (dice == 0) {
          paused.erase(it->first);
          simulator.Cancel(it->first);
        } else if (dice < 4) {
          paused[it->first] = true;
          simulator.SetPaused(it->first, true);
        }
      }
      for (auto it = paused.begin(); it != paused.end();) {
        const auto current = it++;
        if (!simulator.remaining().contains(current->first)) {
          paused.erase(current);
        } else if (below(5) == 0) {
          simulator.SetPaused(current->first, false);
          paused.erase(current);
        }
      }
      const SimulatedStep result = simulator.Step();
      ASSERT_EQ(simulator.violation(), "") << "seed " << seed << " step " << step;
      preemptions += static_cast<int64_t>(result.plan.preempt.size());
      for (SeqId id : result.plan.admit) {
        if (simulator.remaining().contains(id)) reused += simulator.table().At(id).reused_tokens;
      }
      accepted += result.accepted_drafts;
      loads += static_cast<int64_t>(result.plan.loads.size());
      for (const Share& share : result.plan.shares) guesses += share.draft_tokens;
    }
    // Loads of sequences that were cancelled end too.
    for (int i = 0; i < 8; ++i) simulator.Step();
    ASSERT_EQ(simulator.violation(), "") << "seed " << seed;
    const kv::PagePool& pool = simulator.table().pool();
    ASSERT_EQ(pool.num_in_use(), 0);
    ASSERT_EQ(pool.num_free() + pool.num_cached(), options.num_pages);
  }
  // The traffic does reach what it is meant to reach.
  EXPECT_GT(preemptions, 1000);
  EXPECT_GT(reused, 1000);
  EXPECT_GT(loads, 200);
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(guesses, accepted + 1000);
}

// Whatever is guessed, right or wrong, the schedule of everything else is that without guesses as
// long as nobody gets ahead by them.
TEST(SequenceTable, WrongGuesses_ScheduleAsWithout) {
  const auto schedule = [](int32_t wanted) {
    TableOptions options = Options(12);
    options.limits.draft_tokens = 12;
    ScheduleSimulator simulator(options);
    std::string text;
    for (uint64_t id = 1; id <= 6; ++id) {
      simulator.SetGuesses(SeqId{id}, {.wanted = wanted, .right = 0});
      simulator.Add(SeqId{id},
                    Tokens(3 + 4 * static_cast<int32_t>(id), 1000 * static_cast<int32_t>(id)), 15);
    }
    while (!simulator.remaining().empty()) {
      const SimulatedStep step = simulator.Step();
      EXPECT_EQ(simulator.violation(), "");
      for (SeqId id : step.plan.preempt) text += "-" + std::to_string(static_cast<uint64_t>(id));
      for (SeqId id : step.plan.admit) text += "+" + std::to_string(static_cast<uint64_t>(id));
      for (const Share& share : step.plan.shares) text += ":" + std::to_string(share.tokens);
      text += "\n";
    }
    return text;
  };
  const std::string without = schedule(0);
  EXPECT_NE(without.find('-'), std::string::npos) << "nobody was preempted";
  EXPECT_EQ(schedule(4), without);
}

TEST(SequenceTable, RightGuesses_BlocksArePublishedAndOtherPagesGoBack) {
  SequenceTable table(
      {.limits = {.step_tokens = 16, .max_running = 4, .block_size = 4, .draft_tokens = 16},
       .num_pages = 20});
  table.Add(SeqId{1}, {.ids = Tokens(3), .seed = kv::SeedKey({.block_size = 4})});
  Plan plan = table.BeginStep();
  table.CountComputed(plan.shares);
  table.Append(SeqId{1}, 3);
  table.EndStep(plan.shares);

  table.At(SeqId{1}).draft_tokens = 6;
  plan = table.BeginStep();
  ASSERT_EQ(plan.shares.size(), 1u);
  EXPECT_EQ(plan.shares[0].draft_tokens, 6);
  EXPECT_EQ(table.At(SeqId{1}).pages.size(), 3u);
  table.CountComputed(plan.shares);
  table.Append(SeqId{1}, 4);
  table.AcceptDraft(SeqId{1});
  table.Append(SeqId{1}, 5);
  table.EndStep(plan.shares);
  const Sequence& sequence = table.At(SeqId{1});
  EXPECT_EQ(sequence.computed_tokens, 5);
  EXPECT_EQ(sequence.pages.size(), 2u);
  EXPECT_EQ(sequence.page_table.size(), 2u);
  EXPECT_EQ(table.pool().num_free(), 18);
  table.Remove(SeqId{1});
  EXPECT_EQ(table.pool().num_cached(), 1);
}

}  // namespace
}  // namespace halfmoon::sched
