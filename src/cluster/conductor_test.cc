// SPDX-License-Identifier: Apache-2.0
#include "cluster/conductor.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "base/hash.h"

namespace halfmoon::cluster {
namespace {

constexpr int32_t kBlock = 100;
constexpr TimeUs kSecond = 1'000'000;

/// Prefill: 1 ms a token. Decode: 20 ms a step and 1 ms a sequence. Network: 1 GB/s at 10 kB a
/// token, so 10 us a token.
NodeInfo Info(Role role) {
  return {.role = role,
          .kv_bytes_per_token = 10'000,
          .costs = {.prefill = {.token_us = 1000.0},
                    .decode = {.fixed_us = 20'000.0, .sequence_us = 1000.0},
                    .network_bytes_per_s = 1e9}};
}

std::vector<kv::BlockKey> Keys(uint64_t document, int count) {
  std::vector<kv::BlockKey> keys;
  for (int i = 0; i < count; ++i) {
    const std::array<uint64_t, 2> name{document, static_cast<uint64_t>(i)};
    keys.push_back({HashBytes(std::as_bytes(std::span(name)))});
  }
  return keys;
}

class ConductorTest : public testing::Test {
 protected:
  void Start(std::string_view policy, RejectPolicy reject = RejectPolicy::kNone) {
    conductor_.emplace(
        ConductorOptions{.policy = *FindPolicy(policy), .reject = reject, .headroom = 1.0});
  }
  /// Without prompts that are computed where they decode.
  void StartSlack(RejectPolicy reject = RejectPolicy::kNone) {
    Policy policy = *FindPolicy("slack");
    policy.conditional = false;
    conductor_.emplace(ConductorOptions{.policy = policy, .reject = reject, .headroom = 1.0});
  }
  NodeId Join(Role role) { return Join(Info(role)); }
  NodeId Join(const NodeInfo& info) {
    const NodeId node{next_node_++};
    conductor_->NodeJoined(node, info);
    return node;
  }
  Decision Ask(int32_t prompt_tokens, TimeUs now = 0, const std::vector<kv::BlockKey>& keys = {},
               const ServiceLimits& limits = {}) {
    last_ = RequestId{next_request_++};
    return conductor_->Place({.id = last_,
                              .prompt_tokens = prompt_tokens,
                              .keys = keys,
                              .block_tokens = kBlock,
                              .expected_output_tokens = 100,
                              .limits = limits},
                             now);
  }
  Placement Place(int32_t prompt_tokens, TimeUs now = 0, const std::vector<kv::BlockKey>& keys = {},
                  const ServiceLimits& limits = {}) {
    const Decision decision = Ask(prompt_tokens, now, keys, limits);
    EXPECT_TRUE(std::holds_alternative<Placement>(decision));
    return std::holds_alternative<Placement>(decision) ? std::get<Placement>(decision)
                                                       : Placement{};
  }
  RejectReason Refused(int32_t prompt_tokens, TimeUs now = 0, const ServiceLimits& limits = {}) {
    const Decision decision = Ask(prompt_tokens, now, {}, limits);
    if (!std::holds_alternative<Rejection>(decision)) {
      ADD_FAILURE() << "placed";
      return {};
    }
    EXPECT_GE(std::get<Rejection>(decision).retry_after_us, 0);
    return std::get<Rejection>(decision).reason;
  }
  /// Until it decodes.
  void Compute(RequestId request, TimeUs now) {
    conductor_->PrefillStarted(request, now);
    conductor_->PrefillEnded(request, 0.0, now);
    conductor_->DecodeJoined(request, now);
  }

  std::optional<Conductor> conductor_;
  RequestId last_{};
  uint32_t next_node_ = 1;
  uint64_t next_request_ = 1;
};

TEST_F(ConductorTest, Place_NoNodes_SaysSo) {
  Start("global");
  EXPECT_EQ(Refused(100), RejectReason::kNoNode);
  Join(Role::kPrefill);
  EXPECT_EQ(Refused(100), RejectReason::kNoNode);
  EXPECT_EQ(conductor_->num_requests(), 0u);
}

TEST_F(ConductorTest, Place_PrefillNodesGone_ComputesWhereItDecodes) {
  Start("global");
  const NodeId decode = Join(Role::kDecode);
  const Placement placement = Place(100);
  EXPECT_EQ(placement.prefill, decode);
  EXPECT_EQ(placement.decode, decode);
}

TEST_F(ConductorTest, Place_PrefillNodesGoneAndTheOthersBusy_IsPlacedAllTheSame) {
  Start("global");
  // Nothing is measured yet, so no chunk fits between its steps.
  const NodeId decode = Join(NodeInfo{.role = Role::kDecode});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Place(100).prefill, decode);
    Compute(last_, i);
  }
}

TEST_F(ConductorTest, Place_NodeOfBothRoles_DecodesWhereItPrefills) {
  Start("global");
  for (int i = 0; i < 3; ++i) Join(Role::kBoth);
  for (int i = 0; i < 9; ++i) {
    const Placement placement = Place(1000);
    EXPECT_EQ(placement.prefill, placement.decode);
  }
}

TEST_F(ConductorTest, Place_QueuesGrow_SpreadsOverNodes) {
  Start("global");
  for (int i = 0; i < 4; ++i) Join(Role::kPrefill);
  const NodeId decode = Join(Role::kDecode);
  std::multiset<NodeId> used;
  for (int i = 0; i < 8; ++i) {
    const Placement placement = Place(1000);
    used.insert(placement.prefill);
    EXPECT_EQ(placement.decode, decode);
    EXPECT_EQ(placement.ttft_us, (1 + i / 4) * kSecond);
  }
  for (uint32_t node = 1; node <= 4; ++node) EXPECT_EQ(used.count(NodeId{node}), 2u);
}

TEST_F(ConductorTest, Place_TimePasses_ShrinksTheQueue) {
  Start("global");
  Join(Role::kPrefill);
  Join(Role::kDecode);
  Place(1000);
  conductor_->PrefillStarted(last_, 0);
  EXPECT_EQ(Place(1000, kSecond / 2).ttft_us, 3 * kSecond / 2);
  // It takes longer than predicted: nothing is left of it, but the other still waits.
  EXPECT_EQ(Place(1000, 5 * kSecond).ttft_us, 2 * kSecond);
}

TEST_F(ConductorTest, Place_PrefixOnTheNode_IsNotComputedAgain) {
  Start("local");
  Join(Role::kPrefill);
  const NodeId second = Join(Role::kPrefill);
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 10);
  conductor_->BlocksStored(second, Tier::kDram, std::span(keys).first(6));
  const Placement placement = Place(1000, 0, keys);
  EXPECT_EQ(placement.prefill, second);
  EXPECT_EQ(placement.local_blocks, 6);
  EXPECT_EQ(placement.prefix_tokens, 600);
  EXPECT_EQ(placement.ttft_us, 400'000);
  EXPECT_TRUE(placement.fetches.empty());
}

TEST_F(ConductorTest, Place_WholePromptCached_ComputesTheLastToken) {
  Start("local");
  const NodeId node = Join(Role::kPrefill);
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 10);
  conductor_->BlocksStored(node, Tier::kPages, keys);
  EXPECT_EQ(Place(1000, 0, keys).prefix_tokens, 999);
}

TEST_F(ConductorTest, Place_PrefixOnABusyNode_IsFetchedByAnother) {
  Start("global");
  const NodeId busy = Join(Role::kPrefill);
  const NodeId idle = Join(Role::kPrefill);
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 10);
  conductor_->BlocksStored(busy, Tier::kDram, std::span(keys).first(8));
  conductor_->BlocksStored(idle, Tier::kDram, std::span(keys).first(2));
  conductor_->ReportLoad(busy, {.waiting_prompt_tokens = 5000}, 0);
  const Placement placement = Place(1000, 0, keys);
  EXPECT_EQ(placement.prefill, idle);
  ASSERT_EQ(placement.fetches.size(), 1u);
  EXPECT_EQ(placement.fetches[0].source, busy);
  EXPECT_EQ(placement.fetches[0].first_block, 2);
  EXPECT_EQ(placement.fetches[0].num_blocks, 6);
  EXPECT_EQ(placement.fetches[0].tier, Tier::kDram);
  EXPECT_EQ(placement.fetch_us, 6 * kBlock * 10);
  EXPECT_EQ(placement.ttft_us, 200'000 + 6000);
}

TEST_F(ConductorTest, Place_PrefixInPieces_IsPutTogether) {
  Start("global");
  std::vector<NodeId> nodes;
  for (int i = 0; i < 3; ++i) nodes.push_back(Join(Role::kPrefill));
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 9);
  conductor_->BlocksStored(nodes[0], Tier::kDram, std::span(keys).first(4));
  conductor_->BlocksStored(nodes[1], Tier::kSsd, std::span(keys).subspan(3));
  const Placement placement = Place(900, 0, keys);
  EXPECT_EQ(placement.prefix_tokens, 899);
  int32_t next = placement.local_blocks;
  for (const PrefixFetch& fetch : placement.fetches) {
    EXPECT_EQ(fetch.first_block, next);
    EXPECT_NE(fetch.source, placement.prefill);
    next += fetch.num_blocks;
  }
  EXPECT_EQ(next, 9);
}

TEST_F(ConductorTest, Place_DrainingNode_ServesBlocksOnly) {
  Start("global");
  const NodeId draining = Join(Role::kPrefill);
  const NodeId other = Join(Role::kPrefill);
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 10);
  conductor_->BlocksStored(draining, Tier::kDram, keys);
  NodeInfo info = Info(Role::kPrefill);
  info.health = Health::kDraining;
  conductor_->NodeUpdated(draining, info);
  const Placement placement = Place(1000, 0, keys);
  EXPECT_EQ(placement.prefill, other);
  ASSERT_EQ(placement.fetches.size(), 1u);
  EXPECT_EQ(placement.fetches[0].source, draining);
}

TEST_F(ConductorTest, Place_Decode_GoesToTheNodeWithTheShortestSteps) {
  Start("global");
  Join(Role::kPrefill);
  const NodeId first = Join(Role::kDecode);
  const NodeId second = Join(Role::kDecode);
  conductor_->ReportLoad(first, {.decoding = 3, .decoding_kv_tokens = 300}, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Place(10).decode, second);
  conductor_->ReportLoad(first, {}, 0);
  EXPECT_EQ(Place(10).decode, first);
}

TEST_F(ConductorTest, Place_TooLongForEveryDecodeNode_IsRefused) {
  Start("global");
  Join(Role::kPrefill);
  NodeInfo small = Info(Role::kDecode);
  small.kv_tokens = 1000;
  Join(small);
  EXPECT_EQ(Refused(950), RejectReason::kTooLong);
  Place(900);
  Place(900);  // waits for the first to end
}

TEST_F(ConductorTest, NodeLeft_ItsRequests_AreHandedBack) {
  Start("global");
  const NodeId prefill = Join(Role::kPrefill);
  const NodeId decode = Join(Role::kDecode);
  Place(100);
  const RequestId decoding = last_;
  Compute(decoding, 0);
  Place(100);
  const RequestId queued = last_;
  EXPECT_EQ(conductor_->NodeLeft(prefill), std::vector<RequestId>{queued});
  EXPECT_EQ(conductor_->NodeLeft(prefill), std::vector<RequestId>{});
  EXPECT_EQ(conductor_->NodeLeft(decode), std::vector<RequestId>{decoding});
  EXPECT_EQ(conductor_->num_requests(), 0u);
  // What comes late from it is nothing to anyone.
  conductor_->BlocksStored(decode, Tier::kDram, Keys(1, 3));
  conductor_->PrefillEnded(queued, 5.0, 10);
  conductor_->RequestEnded(decoding, 5, 10);
  EXPECT_EQ(conductor_->directory().num_entries(), 0u);
}

TEST_F(ConductorTest, NodeLeft_WhileItSendsKv_LosesTheRequest) {
  Start("global");
  const NodeId prefill = Join(Role::kPrefill);
  Join(Role::kDecode);
  Place(100);
  conductor_->PrefillStarted(last_, 0);
  conductor_->PrefillEnded(last_, 0.0, 0);
  EXPECT_EQ(Place(1000).ttft_us, kSecond);  // nothing is left to compute for the first
  conductor_->RequestEnded(last_, 0, 0);
  EXPECT_EQ(conductor_->NodeLeft(prefill).size(), 1u);
}

TEST_F(ConductorTest, NodeJoined_Again_HasNothingOfBefore) {
  Start("global");
  const NodeId prefill = Join(Role::kPrefill);
  Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 10);
  conductor_->BlocksStored(prefill, Tier::kDram, keys);
  for (int i = 0; i < 1000; ++i) conductor_->NodeJoined(prefill, Info(Role::kPrefill));
  EXPECT_EQ(Place(1000, 0, keys).prefix_tokens, 0);
  EXPECT_EQ(conductor_->num_nodes(), 2u);
}

TEST_F(ConductorTest, Reject_TtftLimit_TellsWhenToComeAgain) {
  Start("global", RejectPolicy::kEarly);
  Join(Role::kPrefill);
  Join(Role::kDecode);
  const ServiceLimits limits{.ttft_us = 5 * kSecond};
  Place(4000, 0, {}, limits);
  const Decision decision = Ask(4000, 0, {}, limits);
  ASSERT_TRUE(std::holds_alternative<Rejection>(decision));
  EXPECT_EQ(std::get<Rejection>(decision).reason, RejectReason::kPrefillLoad);
  EXPECT_EQ(std::get<Rejection>(decision).retry_after_us, 3 * kSecond);
  EXPECT_EQ(conductor_->num_requests(), 1u);
}

// The load of decoding lags behind by the time that prefills take: looking at the moment admits too
// many, looking ahead does not.
TEST_F(ConductorTest, Reject_Predictive_CountsThoseOnTheirWay) {
  const ServiceLimits limits{.tbt_us = 24'500};  // four sequences
  for (const RejectPolicy reject : {RejectPolicy::kEarly, RejectPolicy::kPredictive}) {
    Start("global", reject);
    for (int i = 0; i < 8; ++i) Join(Role::kPrefill);
    Join(Role::kDecode);
    int placed = 0;
    for (int i = 0; i < 8; ++i) {
      placed += std::holds_alternative<Placement>(Ask(100, 0, {}, limits)) ? 1 : 0;
    }
    EXPECT_EQ(placed, reject == RejectPolicy::kEarly ? 8 : 4);
  }
}

TEST_F(ConductorTest, Reject_Predictive_LeavesOutThoseThatEnd) {
  const ServiceLimits limits{.tbt_us = 21'500};  // one sequence
  Start("global", RejectPolicy::kPredictive);
  Join(Role::kPrefill);
  Join(Role::kDecode);
  Place(10, 0, {}, limits);
  const RequestId first = last_;
  Compute(first, 0);
  EXPECT_EQ(Refused(10, 0, limits), RejectReason::kDecodeLoad);
  EXPECT_EQ(Refused(3000, 0, limits), RejectReason::kDecodeLoad);  // others would take the place
  conductor_->RequestEnded(first, 0, 2 * kSecond);
  for (int i = 0; i < 200; ++i) {
    // Without a limit of their own: requests that take three seconds to get here are usual.
    Place(3000, 2 * kSecond);
    conductor_->RequestEnded(last_, 0, 2 * kSecond);
  }
  Place(10, 2 * kSecond);
  Compute(last_, 2 * kSecond);
  Place(3000, 2 * kSecond, {}, limits);  // 100 tokens at 21 ms are done by then
}

TEST_F(ConductorTest, Reject_Late_SaysSoWhenItIsComputed) {
  const ServiceLimits limits{.tbt_us = 21'500};
  Start("global", RejectPolicy::kLate);
  Join(Role::kPrefill);
  Join(Role::kDecode);
  Place(10, 0, {}, limits);
  const RequestId first = last_;
  Place(10, 0, {}, limits);
  EXPECT_FALSE(conductor_->IsDecodeOverloaded(first, 0));
  Compute(first, 0);
  EXPECT_TRUE(conductor_->IsDecodeOverloaded(last_, 0));
}

TEST_F(ConductorTest, Slack_ARequestThatCannotBeInTime_LetsOthersPass) {
  StartSlack();
  Join(Role::kPrefill);
  Join(Role::kDecode);
  const ServiceLimits limits{.ttft_us = 10 * kSecond};
  Place(8000, 0, {}, limits);
  conductor_->PrefillStarted(last_, 0);
  const Placement late = Place(9000, 0, {}, limits);
  const Placement short_one = Place(500, 0, {}, limits);
  EXPECT_GT(late.order_us, short_one.order_us);
  EXPECT_EQ(short_one.ttft_us, 8500 * 1000);
  // Not for ever: one that comes much later does not pass it.
  EXPECT_GT(Place(500, 1000 * kSecond, {}, limits).order_us, late.order_us);
}

TEST_F(ConductorTest, Slack_AShortOne_PassesOnlyWhereNobodyIsLateForIt) {
  StartSlack();
  Join(Role::kPrefill);
  Join(Role::kDecode);
  const ServiceLimits limits{.ttft_us = 10 * kSecond};
  Place(3000, 0, {}, limits);
  conductor_->PrefillStarted(last_, 0);
  const Placement long_one = Place(6500, 0, {}, limits);  // ends at 9.5 s
  EXPECT_EQ(long_one.ttft_us, 9500 * 1000);
  const Placement passes = Place(400, 2 * kSecond, {}, limits);
  EXPECT_LT(passes.order_us, long_one.order_us);
  EXPECT_EQ(passes.ttft_us, 1400 * 1000);
  // It would have the long one end at 10.1 s, and is itself in time behind it.
  const Placement behind = Place(200, 2 * kSecond, {}, limits);
  EXPECT_GT(behind.order_us, long_one.order_us);
  EXPECT_EQ(behind.ttft_us, 8100 * 1000);
}

TEST_F(ConductorTest, Slack_ALongOneBehindALongQueue_IsLateOrRefused) {
  const ServiceLimits limits{.ttft_us = 10 * kSecond};
  for (const RejectPolicy reject : {RejectPolicy::kNone, RejectPolicy::kPredictive}) {
    StartSlack(reject);
    Join(Role::kPrefill);
    Join(Role::kDecode);
    for (int i = 0; i < 5; ++i) Place(1000, 0, {}, limits);
    // In time by itself; it would leave no room for four of its size.
    if (reject == RejectPolicy::kNone) {
      EXPECT_GT(Place(2000, 0, {}, limits).order_us, 100 * kSecond);
    } else {
      EXPECT_EQ(Refused(2000, 0, limits), RejectReason::kPrefillLoad);
    }
    EXPECT_EQ(Place(1200, 0, {}, limits).ttft_us, 6200 * 1000);
    // Longer than all that waits: nobody else made the queue long.
    EXPECT_EQ(Place(100, 0, {}, limits).ttft_us, 100 * 1000);
  }
}

TEST_F(ConductorTest, Pending_APrefixThatIsBeingComputed_CountsWhereItWillBe) {
  Start("slack");
  const NodeId first = Join(Role::kPrefill);
  const NodeId second = Join(Role::kPrefill);
  const NodeId decode = Join(Role::kDecode);
  const std::vector<kv::BlockKey> keys = Keys(1, 20);
  const ServiceLimits limits{.ttft_us = 60 * kSecond};
  const Placement turn = Place(2000, 0, keys, limits);
  const NodeId other = turn.prefill == first ? second : first;
  conductor_->PrefillStarted(last_, 0);
  std::vector<kv::BlockKey> longer = keys;
  for (const kv::BlockKey& key : Keys(2, 5)) longer.push_back(key);
  // Behind it 2.0 + 0.5 s; 2.5 s elsewhere.
  const Placement next = Place(2500, 1, longer, limits);
  EXPECT_EQ(next.prefill, turn.prefill);
  EXPECT_EQ(next.prefix_tokens, 2000);
  EXPECT_EQ(next.local_blocks, 0);
  EXPECT_TRUE(next.fetches.empty());
  // Nothing is left of it when the node goes, or the requests do.
  EXPECT_EQ(conductor_->NodeLeft(turn.prefill).size(), 2u);
  EXPECT_EQ(Place(2500, 2, longer, limits).prefix_tokens, 0);
  conductor_->RequestEnded(last_, 1, 3);
  EXPECT_EQ(Place(2500, 4, longer, limits).prefill, other);
  EXPECT_EQ(conductor_->num_pending_blocks(), 25u);
  conductor_->PrefillEnded(last_, 0.0, 5);
  EXPECT_EQ(conductor_->num_pending_blocks(), 0u);
  EXPECT_NE(other, decode);
}

TEST_F(ConductorTest, Priority_WaitsOnlyForThoseThatGoFirst) {
  Start("global");
  Join(Role::kPrefill);
  Join(Role::kDecode);
  Place(1000);
  conductor_->PrefillStarted(last_, 0);
  const auto ttft_us = [this](int64_t priority) {
    const Decision decision = conductor_->Place(
        {.id = RequestId{next_request_++}, .prompt_tokens = 1000, .priority = priority}, 0);
    return std::get<Placement>(decision).ttft_us;
  };
  EXPECT_EQ(ttft_us(1), 2 * kSecond);
  // What is being computed is not interrupted.
  EXPECT_EQ(ttft_us(0), 2 * kSecond);
  EXPECT_EQ(ttft_us(1), 4 * kSecond);
  EXPECT_EQ(ttft_us(0), 3 * kSecond);
}

TEST_F(ConductorTest, Conditional_ShortPromptAndBusyPrefill_IsComputedWhereItDecodes) {
  Start("slack");
  const NodeId prefill = Join(Role::kPrefill);
  const NodeId decode = Join(Role::kDecode);
  const ServiceLimits limits{.ttft_us = 2 * kSecond, .tbt_us = 42'000};
  EXPECT_EQ(Place(20, 0, {}, limits).prefill, decode);  // no longer than a step
  Compute(last_, 0);
  EXPECT_EQ(Place(500, 0, {}, limits).prefill, prefill);  // in time there
  Place(3000, 0, {}, limits);
  conductor_->PrefillStarted(last_, 0);
  const Placement there = Place(100, 0, {}, limits);
  EXPECT_EQ(there.prefill, decode);
  EXPECT_GT(there.chunk_us, 0);
  EXPECT_LT(there.chunk_us + there.tbt_us, 42'001);
}

TEST_F(ConductorTest, Costs_MeasuredPrefills_ChangePredictions) {
  Start("global");
  const NodeId slow = Join(Role::kPrefill);
  Join(Role::kDecode);
  for (int i = 0; i < 100; ++i) {
    Place(1000);
    conductor_->PrefillStarted(last_, 0);
    conductor_->PrefillEnded(last_, 3e6, 0);
    conductor_->RequestEnded(last_, 10, 0);
  }
  EXPECT_NEAR(static_cast<double>(Place(1000).ttft_us), 3e6, 1e5);
  EXPECT_NEAR(conductor_->CostsOf(slow)->prefill.token_us, 3000.0, 300.0);
  EXPECT_EQ(conductor_->CostsOf(NodeId{99}), nullptr);
}

TEST_F(ConductorTest, Nodes_ThatLie_DoNoHarm) {
  Start("slack", RejectPolicy::kPredictive);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  NodeInfo liar{.role = Role::kBoth,
                .kv_tokens = -5,
                .kv_bytes_per_token = INT64_MAX,
                .max_running = -1,
                .prefill_share = nan,
                .costs = {.prefill = {.fixed_us = nan, .token_us = 1e300, .position_us = 1e300},
                          .decode = {.fixed_us = -1.0, .sequence_us = 1e300, .kv_token_us = nan},
                          .network_bytes_per_s = 1e-300}};
  const NodeId first = Join(liar);
  Join(Role::kPrefill);
  const NodeId honest = Join(Role::kDecode);
  conductor_->ReportLoad(first,
                         {.decoding = INT32_MAX,
                          .decoding_kv_tokens = INT64_MAX,
                          .waiting_prompt_tokens = INT64_MAX,
                          .step_us = nan},
                         0);
  const std::vector<kv::BlockKey> keys = Keys(1, 1000);
  conductor_->BlocksStored(first, Tier::kSsd, keys);
  const Placement placement = Place(100'000, 0, keys, {.ttft_us = 200 * kSecond});
  EXPECT_EQ(placement.decode, honest);
  EXPECT_GE(placement.ttft_us, 0);
  conductor_->PrefillEnded(last_, nan, 0);
}

TEST_F(ConductorTest, Place_SameEvents_GiveTheSameDecisions) {
  std::vector<NodeId> runs[2];
  for (std::vector<NodeId>& run : runs) {
    next_node_ = 1;
    next_request_ = 1;
    Start("random");
    for (int i = 0; i < 5; ++i) Join(Role::kPrefill);
    Join(Role::kDecode);
    for (int i = 0; i < 50; ++i) run.push_back(Place(100).prefill);
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_EQ(std::set<NodeId>(runs[0].begin(), runs[0].end()).size(), 5u);
}

}  // namespace
}  // namespace halfmoon::cluster
