// SPDX-License-Identifier: Apache-2.0
#include "serve/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::serve {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, RetryAfter_GrowsWithQueueAndDuration) {
  Metrics metrics;
  engine::EngineStats stats;
  EXPECT_EQ(metrics.RetryAfterSeconds(stats), 1);
  stats.running = 2;
  stats.queued = 10;
  EXPECT_EQ(metrics.RetryAfterSeconds(stats), 5);
  for (int i = 0; i < 100; ++i) metrics.ObserveEnd(Outcome::kStop, 4.0, 1, 1);
  EXPECT_EQ(metrics.RetryAfterSeconds(stats), 20);
  stats.queued = 100000;
  EXPECT_EQ(metrics.RetryAfterSeconds(stats), 120);
}

TEST(Metrics, WithoutAnEngine_PagePrintsTheServersOwn) {
  const Metrics metrics;
  const std::string page = metrics.Print(std::nullopt, "m\"1");
  EXPECT_THAT(
      page,
      HasSubstr("vllm:request_success_total{finished_reason=\"abort\",model_name=\"m\\\"1\"} 0"));
  EXPECT_THAT(page, HasSubstr("# TYPE vllm:time_to_first_token_seconds histogram"));
}

TEST(Metrics, Store_PrintsTheTiersThatThereAre) {
  const Metrics metrics;
  engine::EngineStats stats;
  EXPECT_EQ(metrics.Print(stats, "m").find("kv_store"), std::string::npos);
  stats.store = {.disk = {.budget_bytes = 1000, .hits = 7}, .dropped_puts = 3};
  stats.unoffered_blocks = 2;
  stats.waiting_offers = 4;
  const std::string page = metrics.Print(stats, "m");
  EXPECT_THAT(page, HasSubstr("halfmoon_kv_store_hits_total{tier=\"disk\",model_name=\"m\"} 7"));
  EXPECT_EQ(page.find("tier=\"dram\""), std::string::npos);
  EXPECT_THAT(page, HasSubstr("halfmoon_kv_store_dropped_total{model_name=\"m\"} 5"));
  EXPECT_THAT(page, HasSubstr("halfmoon_kv_store_pending_blocks{model_name=\"m\"} 4"));
}

TEST(Metrics, SeveralTokensAtOnce_ShareTheirTime) {
  Metrics metrics;
  metrics.ObserveTokens(0.4, 4);
  const std::string page = metrics.Print(std::nullopt, "m");
  EXPECT_THAT(page, HasSubstr("halfmoon_time_per_output_token_seconds_count{model_name=\"m\"} 4"));
  EXPECT_THAT(
      page,
      HasSubstr("halfmoon_time_per_output_token_seconds_bucket{model_name=\"m\",le=\"0.075\"} 0"));
}

}  // namespace
}  // namespace halfmoon::serve
