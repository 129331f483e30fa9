// SPDX-License-Identifier: Apache-2.0
#include "serve/service_class.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace halfmoon::serve {
namespace {

using ::testing::HasSubstr;

TEST(ServiceClass, Parse_EverySetting) {
  const Result<ServiceClass> batch = ParseServiceClass("batch,ttft=2.5,tbt=300,priority=-4");
  ASSERT_TRUE(batch.ok()) << batch.error().message();
  EXPECT_EQ(batch->name, "batch");
  EXPECT_EQ(batch->priority, -4);
  EXPECT_EQ(batch->ttft_us, 2'500'000);
  EXPECT_EQ(batch->tbt_us, 300'000);
  EXPECT_EQ(ParseServiceClass("a").value().ttft_us, 0);
}

TEST(ServiceClass, Malformed_NamesTheSetting) {
  for (const char* text : {"", ",ttft=1", "a,", "a,ttft", "a,ttft=", "a,ttft=x", "a,ttft=-1",
                           "a,ttft=nan", "a,ttft=1e99", "a,priority=1.5", "a,speed=1"}) {
    const Result<ServiceClass> made = ParseServiceClass(text);
    ASSERT_FALSE(made.ok()) << text;
    EXPECT_THAT(made.error().message(), HasSubstr("NAME[,priority=N]"));
  }
  EXPECT_THAT(ParseServiceClass("a,ttft=1,speed=1").error().message(), HasSubstr("\"speed=1\""));
}

TEST(ServiceClass, Find_ByNameElseTheFirst) {
  const std::vector<ServiceClass> classes = {{}, {.name = "batch"}, {.name = "flex"}};
  EXPECT_EQ(FindServiceClass(classes, "").value(), &classes[0]);
  EXPECT_EQ(FindServiceClass(classes, "auto").value(), &classes[0]);
  EXPECT_EQ(FindServiceClass(classes, "batch").value(), &classes[1]);
  EXPECT_EQ(FindServiceClass(classes, "flex").value(), &classes[2]);
  EXPECT_THAT(FindServiceClass(classes, "gold").error().message(),
              HasSubstr("'default', 'batch', 'flex'"));
}

TEST(ServiceClass, Priority_OfTheClassComesBeforeTheRequests) {
  const ServiceClass high{.priority = -1};
  const ServiceClass low{.priority = 1};
  EXPECT_LT(ServiceOf(high, INT32_MAX).priority, ServiceOf({}, INT32_MIN).priority);
  EXPECT_LT(ServiceOf({}, INT32_MAX).priority, ServiceOf(low, INT32_MIN).priority);
  EXPECT_LT(ServiceOf(low, -1).priority, ServiceOf(low, 0).priority);
}

}  // namespace
}  // namespace halfmoon::serve
