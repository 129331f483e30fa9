// SPDX-License-Identifier: Apache-2.0
#include "cluster/kv_puller.h"

#include <gtest/gtest.h>

#include <future>

namespace halfmoon::cluster {
namespace {

TEST(KvPuller, AddressThatIsNone_FailsThePullAndNothingElse) {
  MonotonicClock clock;
  Result<std::unique_ptr<net::ChannelService>> channels =
      net::ChannelService::Create({.token = "secret"}, nullptr);
  ASSERT_TRUE(channels.ok());
  {
    KvPuller puller(channels->get(), nullptr, &clock, {.layer_bytes = 16, .num_layers = 1});
    const std::vector<kv::BlockKey> keys(1);
    std::vector<std::byte> page(16);
    for (const char* address : {"nowhere", "", ":7", "host:0"}) {
      const std::shared_ptr<store::BlockSource> source =
          puller.Pull({.address = address, .num_blocks = 1}, keys);
      std::promise<void> begun;
      ASSERT_TRUE((*channels)->timers().Post([&] { begun.set_value(); }));
      begun.get_future().wait();
      source->Fetch(std::vector<store::BlockFetch>{{.key = keys[0], .page = page}});
      std::vector<store::BlockEvent> events;
      source->Poll(&events);
      ASSERT_EQ(events.size(), 1u) << address;
      EXPECT_EQ(events[0].status.error().code(), ErrorCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace halfmoon::cluster
