// SPDX-License-Identifier: Apache-2.0
#include "sim/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "sim/node_blocks.h"

namespace halfmoon::sim {
namespace {

std::string ErrorOf(std::string_view text) {
  const Result<Trace> trace = ParseTrace(text);
  return trace.ok() ? "" : trace.error().message();
}

TEST(ParseTrace_Rows, AreReadInOrderOfArrival) {
  const Trace trace = ParseTrace(
                          "{\"timestamp\": 3000, \"input_length\": 513, \"output_length\": 2, "
                          "\"hash_ids\": [7, 8]}\n\n"
                          "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\r\n")
                          .value();
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].prompt_tokens, 5);
  EXPECT_EQ(trace.requests[0].num_blocks, 0);
  EXPECT_EQ(trace.requests[1].arrival_us, 3'000'000);
  EXPECT_EQ(trace.requests[1].num_blocks, 2);
  EXPECT_EQ(trace.blocks, (std::vector<uint64_t>{7, 8}));
  EXPECT_EQ(trace.duration_s(), 3.0);
}

TEST(ParseTrace_BadRows, AreNamedByLine) {
  const std::string good = "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n";
  EXPECT_EQ(ErrorOf(""), "no request in it");
  EXPECT_THAT(ErrorOf(good + "{\"timestamp\": 0,"), testing::StartsWith("line 2: "));
  EXPECT_THAT(ErrorOf(good + "\n[]"), testing::StartsWith("line 3: "));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 0, \"output_length\": 1}"),
              testing::AllOf(testing::StartsWith("line 1: "), testing::HasSubstr("input_length")));
  EXPECT_THAT(ErrorOf("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 1}"),
              testing::HasSubstr("timestamp is -1"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1, \"input_length\": 0, \"output_length\": 1}"),
              testing::HasSubstr("input_length is 0"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 99999999}"),
              testing::HasSubstr("output_length is 99999999"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1, \"input_length\": 513, \"output_length\": 1, "
                      "\"hash_ids\": [1]}"),
              testing::HasSubstr("513 tokens fill 2"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, "
                      "\"hash_ids\": [\"a\"]}"),
              testing::HasSubstr("hash_ids"));
}

TEST(ReadTrace_NoFile, SaysWhich) {
  const Result<Trace> trace = ReadTrace("no/such/trace.jsonl");
  ASSERT_FALSE(trace.ok());
  EXPECT_THAT(trace.error().message(), testing::HasSubstr("no/such/trace.jsonl"));
}

/// Share of blocks found, one pool.
double HitShare(const Trace& trace, int64_t tokens) {
  // Exactly the least recently used one goes, and only when there is no slot.
  NodeBlocks pool({.dram_blocks = static_cast<int32_t>(tokens / trace.block_tokens),
                   .catalog = {.watermark = 1.0, .pass = 0.0, .lease_us = 0}});
  std::vector<BlockChange> changes;
  int64_t hits = 0;
  int64_t blocks = 0;
  for (const TraceRequest& request : trace.requests) {
    std::vector<kv::BlockKey> keys;
    for (int32_t i = 0; i < request.num_blocks; ++i) {
      const uint64_t id = trace.blocks[request.first_block + static_cast<uint64_t>(i)];
      keys.push_back({{.high = id, .low = id}});
    }
    hits += pool.FindPrefix(keys, 0);
    blocks += request.num_blocks;
    changes.clear();
    pool.Use(keys, 0, &changes);
  }
  return static_cast<double>(hits) / static_cast<double>(blocks);
}

TEST(ReadTrace_Conversation, HasThePublishedCountsAndHits) {
  const Trace trace =
      ReadTrace(std::filesystem::path(HALFMOON_GOLDEN_DIR) / "traces/conversation_trace.jsonl.gz")
          .value();
  ASSERT_EQ(trace.requests.size(), 12'031u);
  EXPECT_EQ(trace.blocks.size(), 288'500u);
  const std::map<int64_t, double> published{{100'000, 0.042},    {1'000'000, 0.053},
                                            {3'000'000, 0.136},  {10'000'000, 0.285},
                                            {50'000'000, 0.364}, {100'000'000, 0.366}};
  for (const auto& [tokens, share] : published) {
    EXPECT_NEAR(HitShare(trace, tokens), share, 0.002) << tokens;
  }
}

TEST(NodeBlocks_Tiers, FillBothAndTellWhatChanges) {
  const auto key = [](uint64_t id) { return kv::BlockKey{{.high = id, .low = id}}; };
  const kv::CatalogOptions exact{.watermark = 1.0, .pass = 0.0, .lease_us = 0};
  NodeBlocks blocks({.dram_blocks = 2, .ssd_blocks = 3, .catalog = exact});
  std::vector<BlockChange> changes;
  blocks.Use(std::vector{key(1), key(2)}, 0, &changes);  // the end of a request is older
  blocks.Use(std::vector{key(3)}, 0, &changes);
  EXPECT_EQ(blocks.TierOf(key(2)), cluster::Tier::kSsd);
  EXPECT_EQ(blocks.TierOf(key(1)), cluster::Tier::kDram);
  blocks.Use(std::vector{key(2)}, 0, &changes);
  EXPECT_EQ(blocks.TierOf(key(2)), cluster::Tier::kDram);
  EXPECT_EQ(blocks.TierOf(key(1)), cluster::Tier::kSsd);
  blocks.Use(std::vector{key(4)}, 0, &changes);
  EXPECT_EQ(blocks.TierOf(key(1)), std::nullopt);
  EXPECT_EQ(blocks.num_ready(kv::Tier::kDram), 2);
  EXPECT_EQ(blocks.num_ready(kv::Tier::kDisk), 3);
  EXPECT_EQ(blocks.num_lost(), 0);
  // The changes add up to what is there, and so does the list of a node that comes back.
  std::vector<BlockChange> listed;
  blocks.List(&listed);
  for (const std::vector<BlockChange>* told : {&changes, &listed}) {
    std::map<std::pair<uint64_t, cluster::Tier>, bool> has;
    for (const BlockChange& change : *told) has[{change.key.hash.low, change.tier}] = change.stored;
    EXPECT_EQ(std::ranges::count_if(has, [](const auto& entry) { return entry.second; }), 5);
    EXPECT_TRUE((has[{2, cluster::Tier::kDram}]));
    EXPECT_FALSE((has[{1, cluster::Tier::kSsd}]));
  }
}

}  // namespace
}  // namespace halfmoon::sim
