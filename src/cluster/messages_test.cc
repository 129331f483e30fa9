// SPDX-License-Identifier: Apache-2.0
#include "cluster/messages.h"

#include <gtest/gtest.h>

namespace halfmoon::cluster {
namespace {

// Every message with every field set, so that one that is left out shows.
template <typename Message>
void ExpectRoundTrip(const Message& message) {
  const std::string bytes = Encode(message);
  Message read;
  const Status status = Decode(bytes, &read);
  ASSERT_TRUE(status.ok()) << status.error().message();
  EXPECT_EQ(Encode(read), bytes);
  for (size_t size = 0; size < bytes.size(); ++size) {
    Message cut;
    const Status corrupt = Decode(std::string_view(bytes).substr(0, size), &cut);
    ASSERT_FALSE(corrupt.ok()) << size;
    EXPECT_EQ(corrupt.error().code(), ErrorCode::kCorrupt);
  }
  EXPECT_FALSE(Decode(bytes + "x", &read).ok());
}

Submit FullSubmit() {
  Submit submit{.call = CallId{7}, .credit = 12};
  submit.request = {.prompt_ids = {1, 2, 3},
                    .sampling = {.temperature = 0.5f, .seed = 9, .logit_bias = {{4, -1.5f}}},
                    .max_tokens = 5,
                    .stop_ids = {2},
                    .num_logprobs = 3,
                    .prompt_logprobs = true,
                    .cache_salt = "tenant",
                    .resumed_tokens = 1,
                    .grammar = GrammarSpec{.kind = 1, .source = "[ab]+", .eos_ids = {2}},
                    .turn = {.priority = -3, .yield_us = 4, .max_chunk_us = 5}};
  submit.sources = {{.address = "host:1", .ticket = {1, 2}, .num_blocks = 3, .patience_us = 4},
                    {.address = "host:2", .ticket = {3, 4}, .first_block = 3, .num_blocks = 1}};
  return submit;
}

TEST(Messages, RoundTrip_KeepsEveryFieldAndRefusesEveryCut) {
  ExpectRoundTrip(Hello{.version = 3, .kind = PeerKind::kNode});
  ExpectRoundTrip(NodeDescription{.name = "a",
                                  .incarnation = 1,
                                  .address = "b:1",
                                  .http_url = "c",
                                  .version = "d",
                                  .model = "e",
                                  .fingerprint = "f",
                                  .kv_format_version = 2,
                                  .block_size = 32,
                                  .max_request_tokens = 100,
                                  .vocab_size = 10,
                                  .info = {.role = Role::kDecode, .kv_tokens = 5}});
  ExpectRoundTrip(Join{.address = "a:1"});
  ExpectRoundTrip(FullSubmit());
  ExpectRoundTrip(Credit{.call = CallId{1}, .events = 2});
  ExpectRoundTrip(Cancel{.call = CallId{1}});
  ExpectRoundTrip(Events{
      .call = CallId{1},
      .events = {
          ProgressEvent{.computed_tokens = 1, .prompt_tokens = 2},
          PromptEvent{.cached_tokens = 1, .prompt_logprobs = {{.id = 4}}},
          TokenEvent{.id = 3, .logprob = -1.0f, .top = {{.id = 3, .logprob = -1.0f}}},
          FinishEvent{.reason = FinishReason::kError, .error = Error(ErrorCode::kIo, "disk")}}});
  ExpectRoundTrip(Export{.ticket = {1, 2},
                         .prompt_ids = {1},
                         .cache_salt = "s",
                         .first_block = 2,
                         .num_blocks = 1,
                         .cached_only = true,
                         .sources = {{.address = "a:1"}},
                         .turn = {.priority = 1}});
  ExpectRoundTrip(CancelExport{.ticket = {1, 2}});
  ExpectRoundTrip(ExportEnded{.ticket = {1, 2},
                              .found = {.pages = 1, .dram = 2, .ssd = 3},
                              .error = Error(ErrorCode::kCancelled, "x")});
  ExpectRoundTrip(Load{.health = Health::kDraining,
                       .report = {.decoding = 1},
                       .costs = {.prefill = {.token_us = 1.5}},
                       .exports = 3,
                       .blocks = {.ssd = 1},
                       .hits = {.dram = 2}});
  ExpectRoundTrip(Blocks{.tier = Tier::kSsd,
                         .added = {kv::BlockKey{{1, 2}}},
                         .removed = {kv::BlockKey{{3, 4}}, kv::BlockKey{{5, 6}}}});
  ExpectRoundTrip(Pull{.ticket = {1, 2}});
  ExpectRoundTrip(
      KvSegment{.ticket = {1, 2}, .descriptor = "d", .layer_bytes = 64, .num_layers = 2});
  ExpectRoundTrip(KvReady{.ticket = {1, 2}, .end_layer = 1, .offsets = {64}, .checksums = {5}});
  ExpectRoundTrip(KvEnd{.ticket = {1, 2}, .error = Error(ErrorCode::kUnavailable, "gone")});
  ExpectRoundTrip(PullDone{.ticket = {1, 2}});
}

TEST(Messages, Fields_ComeBackAsTheyWere) {
  Submit read;
  ASSERT_TRUE(Decode(Encode(FullSubmit()), &read).ok());
  EXPECT_EQ(read.request.prompt_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(read.request.sampling.logit_bias, FullSubmit().request.sampling.logit_bias);
  EXPECT_EQ(read.request.grammar->source, "[ab]+");
  ASSERT_EQ(read.sources.size(), 2u);
  EXPECT_EQ(read.sources[0].ticket, (Ticket{1, 2}));
  EXPECT_EQ(read.sources[1].first_block, 3);
  EXPECT_TRUE(read.request.prompt_logprobs);
}

TEST(Messages, EnumBeyondItsRange_IsCorrupt) {
  std::string bytes = Encode(Hello{});
  bytes.back() = 9;
  Hello read;
  EXPECT_FALSE(Decode(bytes, &read).ok());
}

TEST(Messages, CountBeyondTheEnd_TakesNoMemory) {
  Events message{.call = CallId{1}};
  std::string bytes = Encode(message);
  for (size_t i = bytes.size() - 4; i < bytes.size(); ++i) bytes[i] = '\xff';
  Events read;
  EXPECT_FALSE(Decode(bytes, &read).ok());
  EXPECT_TRUE(read.events.empty());
}

}  // namespace
}  // namespace halfmoon::cluster
