// SPDX-License-Identifier: Apache-2.0
#include "cluster/memory_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

namespace halfmoon::cluster {
namespace {

using ::testing::ElementsAre;

using Addresses = std::vector<std::string>;

TEST(MemoryStore_Nodes, ComeAndGoWithTheirStores) {
  const auto board = std::make_shared<MemoryBoard>();
  std::vector<Addresses> lists;
  std::optional<MemoryStore> conductor(board);
  ASSERT_TRUE(conductor->Follow([&](Addresses list) { lists.push_back(std::move(list)); }).ok());
  EXPECT_EQ(conductor->state(), "connected");
  {
    MemoryStore a(board);
    MemoryStore b(board);
    ASSERT_TRUE(a.Announce({.name = "a", .address = "a:1"}).ok());
    ASSERT_TRUE(b.Announce({.name = "b", .address = "b:1"}).ok());
    ASSERT_TRUE(b.Announce({.name = "b", .address = "b:1"}).ok());
    MemoryStore again(board);
    ASSERT_TRUE(again.Announce({.name = "a", .address = "a:2"}).ok());
  }
  EXPECT_THAT(lists, ElementsAre(Addresses{}, Addresses{"a:1"}, Addresses({"a:1", "b:1"}),
                                 Addresses({"a:2", "b:1"}), Addresses{"b:1"}, Addresses{}));
  EXPECT_FALSE(conductor->Follow([](Addresses) {}).ok());
  EXPECT_FALSE(conductor->Announce({.name = "", .address = "a:1"}).ok());
  EXPECT_FALSE(conductor->Announce({.name = "a", .address = "a:0"}).ok());
  conductor.reset();
  MemoryStore late(board);
  ASSERT_TRUE(late.Announce({.name = "a", .address = "a:1"}).ok());
  EXPECT_EQ(lists.size(), 6u);
}

}  // namespace
}  // namespace halfmoon::cluster
