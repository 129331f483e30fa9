// SPDX-License-Identifier: Apache-2.0
#include "cluster/node_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/node_record.h"

namespace halfmoon::cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr TimeUs kTrustUs = 50;
constexpr TimeUs kGraceUs = 100;

etcd::KeyValue Node(const std::string& name, int64_t revision) {
  return {.key = NodePrefix("c") + name,
          .value = EncodeNodeRecord(name + ":1"),
          .mod_revision = revision};
}

etcd::RangeAnswer List(int64_t revision, std::vector<std::string> names,
                       const std::string& cluster = "7") {
  etcd::RangeAnswer answer{.header = {.cluster_id = cluster, .revision = revision}};
  for (const std::string& name : names) answer.kvs.push_back(Node(name, 1));
  return answer;
}

etcd::WatchAnswer Came(const std::string& name, int64_t revision) {
  return {.events = {{.kv = Node(name, revision)}}};
}

etcd::WatchAnswer Went(const std::string& name, int64_t revision) {
  etcd::WatchAnswer answer = Came(name, revision);
  answer.events[0].deleted = true;
  answer.events[0].kv.value.clear();
  return answer;
}

class NodeSetTest : public ::testing::Test {
 protected:
  /// A list that was asked for just now.
  bool OnList(const etcd::RangeAnswer& list, TimeUs now_us) {
    const auto restart = nodes_.OnList(list, nodes_.revision(), now_us);
    EXPECT_TRUE(restart.ok());
    return restart.ok() && *restart;
  }
  void OnEvents(const etcd::WatchAnswer& answer, TimeUs now_us) {
    EXPECT_TRUE(nodes_.OnEvents(answer, now_us).ok());
  }

  NodeSet nodes_{{.trust_us = kTrustUs, .grace_us = kGraceUs}};
};

TEST_F(NodeSetTest, ListsAndEvents_FollowOneAnother) {
  EXPECT_FALSE(nodes_.known());
  EXPECT_FALSE(OnList(List(5, {"b", "a"}), 0));
  EXPECT_TRUE(nodes_.known());
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1", "b:1"));
  OnEvents(Came("c", 6), 10);
  OnEvents(Went("a", 7), 10);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("b:1", "c:1"));
  EXPECT_EQ(nodes_.revision(), 7);
  EXPECT_FALSE(OnList(List(8, {"c"}), 20));
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("c:1"));
}

TEST_F(NodeSetTest, ListOlderThanTheWatch_ChangesNothing) {
  OnList(List(5, {"a"}), 0);
  OnEvents(Came("b", 8), 10);
  const auto restart = nodes_.OnList(List(6, {"a"}), /*asked_at=*/5, 20);
  ASSERT_TRUE(restart.ok());
  EXPECT_FALSE(*restart);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1", "b:1"));
}

TEST_F(NodeSetTest, EventsOlderThanTheList_ChangeNothing) {
  OnList(List(9, {"a"}), 0);
  OnEvents(Went("a", 8), 10);
  OnEvents(Came("b", 9), 10);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1"));
}

TEST_F(NodeSetTest, StoreAway_RemovesNobodyUntilTheGraceAfterIt) {
  OnList(List(5, {"a", "b", "c"}), 0);
  nodes_.OnFailure();
  EXPECT_FALSE(nodes_.reachable());
  OnEvents(Went("a", 6), 10);  // an old watch wakes up before the first list
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1", "b:1", "c:1"));
  EXPECT_TRUE(OnList(List(7, {"c"}), 1000));
  EXPECT_FALSE(OnList(List(7, {"c"}), 1000 + kTrustUs));
  OnEvents(Went("c", 8), 1000 + kGraceUs - 1);
  OnEvents(Came("b", 9), 1000 + kGraceUs - 1);
  EXPECT_FALSE(OnList(List(9, {"b"}), 1000 + kGraceUs - 1));
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1", "b:1", "c:1"));
  OnList(List(9, {"b"}), 1000 + kGraceUs);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("b:1"));
}

TEST_F(NodeSetTest, SilenceThatNobodyNoticed_IsAwayToo) {
  OnList(List(5, {"a"}), 0);
  OnEvents(Went("a", 6), kTrustUs + 1);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1"));
  EXPECT_TRUE(OnList(List(6, {}), kTrustUs + 2));
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1"));
  for (TimeUs now_us = kTrustUs + 2; now_us <= kTrustUs + 2 + kGraceUs; now_us += 20) {
    OnList(List(6, {}), now_us);
  }
  EXPECT_THAT(nodes_.Addresses(), IsEmpty());
}

TEST_F(NodeSetTest, AnotherStore_IsAwayToo) {
  OnList(List(50, {"a"}), 0);
  EXPECT_TRUE(OnList(List(2, {}), 10)) << "lost its disk: the revision went back";
  EXPECT_EQ(nodes_.revision(), 2);
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1"));
  EXPECT_TRUE(OnList(List(60, {"b"}, "8"), 20)) << "another cluster's id";
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1", "b:1"));
}

TEST_F(NodeSetTest, WatchThatDoesNotTellWhatListsTell_IsBegunAgain) {
  OnList(List(5, {"a"}), 0);
  EXPECT_FALSE(OnList(List(6, {"a", "b"}), 20)) << "the event may be on its way";
  EXPECT_TRUE(OnList(List(6, {"a", "b"}), 40));
  EXPECT_FALSE(OnList(List(7, {"a"}), 60));
  OnEvents(Went("b", 7), 70);
  EXPECT_FALSE(OnList(List(7, {"a"}), 80)) << "it came";
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1")) << "a watch's fault keeps nobody";
}

TEST_F(NodeSetTest, UnreadableRecord_IsToldOnceAndTakesNobodyOut) {
  OnList(List(5, {"a"}), 0);
  etcd::WatchAnswer bad = Came("a", 6);
  bad.events[0].kv.value = "nonsense";
  OnEvents(bad, 10);
  bad.events[0].kv.mod_revision = 7;
  OnEvents(bad, 10);
  const std::vector<std::string> complaints = nodes_.TakeComplaints();
  ASSERT_EQ(complaints.size(), 1u);
  EXPECT_THAT(complaints[0], HasSubstr("/halfmoon/c/nodes/a: not JSON"));
  EXPECT_THAT(nodes_.Addresses(), ElementsAre("a:1"));
  OnEvents(Went("a", 8), 10);
  EXPECT_THAT(nodes_.Addresses(), IsEmpty());
}

TEST_F(NodeSetTest, MoreNodesThanAnyClusterHas_AreRefused) {
  std::vector<std::string> names;
  for (size_t i = 0; i < kMaxNodes; ++i) names.push_back("n" + std::to_string(i));
  OnList(List(5, names), 0);
  EXPECT_FALSE(nodes_.OnEvents(Came("one-more", 6), 10).ok());
  names.push_back("one-more");
  EXPECT_FALSE(nodes_.OnList(List(7, names), 5, 10).ok());
  EXPECT_EQ(nodes_.Addresses().size(), kMaxNodes);
}

TEST(NodeRecord_Bad, NamesWhatIsWrong) {
  const auto error = [](std::string_view record) {
    const auto address = ParseNodeRecord(record);
    return address.ok() ? "" : address.error().message();
  };
  EXPECT_EQ(error(EncodeNodeRecord("[::1]:7001")), "");
  EXPECT_THAT(error(R"({"address":"a:1"})"), HasSubstr("'version' is missing"));
  EXPECT_THAT(error(R"({"version":2,"address":"a:1"})"), HasSubstr("version 2"));
  EXPECT_THAT(error(R"({"version":1})"), HasSubstr("'address' is missing"));
  EXPECT_THAT(error(R"({"version":1,"address":7})"), HasSubstr("'address'"));
  for (const char* address : {"a", ":1", "a:", "a:0", "a:65536", "a:1x", "::1:7", "a b:1"}) {
    EXPECT_NE(error(EncodeNodeRecord(address)), "") << address;
  }
  EXPECT_THAT(error(std::string(20 << 10, ' ')), HasSubstr("larger"));
}

}  // namespace
}  // namespace halfmoon::cluster
