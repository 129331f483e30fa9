// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "cluster/fake_etcd_for_test.h"
#include "cluster/node_record.h"

namespace halfmoon::cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

using Addresses = std::vector<std::string>;
using Mood = FakeEtcd::Mood;

constexpr TimeUs kHourUs = 3'600'000'000;

/// What a follower was told.
class Told {
 public:
  OnNodes callback() {
    return [this](Addresses addresses) {
      const std::lock_guard lock(mutex_);
      lists_.push_back(std::move(addresses));
      changed_.notify_all();
    };
  }
  /// Waits until the last list is this one.
  void WaitFor(const Addresses& expected) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60),
                                  [&] { return !lists_.empty() && lists_.back() == expected; }))
        << "last list: " << (lists_.empty() ? "none" : ::testing::PrintToString(lists_.back()));
  }
  std::vector<Addresses> lists() const {
    const std::lock_guard lock(mutex_);
    return lists_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Addresses> lists_;
};

/// Quick, but nobody is thought to be away only because the machine is busy.
EtcdTimes QuickTimes() {
  return {.keep_alive_us = 20'000,
          .list_us = 20'000,
          .call_timeout_us = 60'000'000,
          .retry_us = 5'000,
          .max_retry_us = 20'000,
          .trust_us = kHourUs,
          .grace_us = kHourUs};
}

std::unique_ptr<MetaStore> Open(const std::string& urls, const EtcdTimes& times = QuickTimes()) {
  auto endpoints = etcd::ParseEndpoints(urls);
  EXPECT_TRUE(endpoints.ok()) << endpoints.error().message();
  return EtcdStore::Start(std::move(endpoints).value(), {.cluster = "test"}, times);
}

std::string KeyOf(const std::string& name) { return NodePrefix("test") + name; }

/// Waits until the state begins so.
void WaitForState(const MetaStore& store, FakeEtcd& etcd, const std::string& begin) {
  for (int i = 0; i < 3000 && !store.state().starts_with(begin); ++i) {
    etcd.WaitForCalls("/v3/kv/range", 1);
  }
  EXPECT_THAT(store.state(), StartsWith(begin));
}

void WaitForKeys(FakeEtcd& etcd, size_t count) {
  for (int i = 0; i < 3000 && etcd.keys().size() != count; ++i) {
    etcd.WaitForCalls("/v3/kv/range", 1);
  }
  EXPECT_EQ(etcd.keys().size(), count);
}

TEST(EtcdStore_Nodes, ComeAndGo) {
  FakeEtcd etcd;
  Told told;
  const auto conductor = Open(etcd.url());
  EXPECT_EQ(conductor->state(), "connecting");
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({});
  auto a = Open(etcd.url());
  ASSERT_TRUE(a->Announce({.name = "a", .address = "10.0.0.1:7001"}).ok());
  told.WaitFor({"10.0.0.1:7001"});
  const auto b = Open(etcd.url());
  ASSERT_TRUE(b->Announce({.name = "b", .address = "10.0.0.2:7001"}).ok());
  told.WaitFor({"10.0.0.1:7001", "10.0.0.2:7001"});
  EXPECT_EQ(etcd.keys()[KeyOf("a")], R"({"version":1,"address":"10.0.0.1:7001"})");
  EXPECT_EQ(conductor->state(), "connected");
  a.reset();
  told.WaitFor({"10.0.0.2:7001"});
  EXPECT_EQ(etcd.num_leases(), 1u) << "a lease is given back by who leaves";
  ASSERT_TRUE(b->Announce({.name = "b", .address = "10.0.0.2:7002"}).ok());
  told.WaitFor({"10.0.0.2:7002"});
  ASSERT_TRUE(b->Announce({.name = "c", .address = "10.0.0.2:7003"}).ok());
  told.WaitFor({"10.0.0.2:7003"});
  EXPECT_EQ(etcd.keys().size(), 1u);
}

TEST(EtcdStore_NodeThatIsKilled, GoesWithItsLease) {
  FakeEtcd etcd;
  Told told;
  const auto conductor = Open(etcd.url());
  etcd.PutKey(KeyOf("a"), EncodeNodeRecord("a:1"));
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({"a:1"});
  etcd.DeleteKey(KeyOf("a"));
  told.WaitFor({});
}

TEST(EtcdStore_Etcd, MayBeStartedAfterAll) {
  uint16_t port = 0;
  {
    port = FakeEtcd().port();
  }
  Told told;
  const std::string url = "http://127.0.0.1:" + std::to_string(port);
  const auto store = Open(url);
  ASSERT_TRUE(store->Announce({.name = "a", .address = "a:1"}).ok());
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  while (store->state() == "connecting") std::this_thread::yield();
  EXPECT_THAT(store->state(), StartsWith("away for 0 s: " + url + ": "));
  EXPECT_THAT(told.lists(), IsEmpty());
  FakeEtcd etcd(port);
  told.WaitFor({"a:1"});
  WaitForState(*store, etcd, "connected");
}

TEST(EtcdStore_EtcdThatEndsAndStartsAgain, CostsNobody) {
  FakeEtcd etcd;
  Told told;
  const auto conductor = Open(etcd.url());
  const auto a = Open(etcd.url());
  ASSERT_TRUE(a->Announce({.name = "a", .address = "a:1"}).ok());
  etcd.PutKey(KeyOf("b"), EncodeNodeRecord("b:1"));
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({"a:1", "b:1"});
  etcd.Stop();
  while (conductor->state() == "connected") std::this_thread::yield();
  EXPECT_THAT(conductor->state(), StartsWith("away for "));
  etcd.EndLeases();
  etcd.StartAgain();
  WaitForState(*conductor, etcd, "connected");
  WaitForKeys(etcd, 2);  // a announces itself again, under a new lease
  etcd.PutKey(KeyOf("c"), EncodeNodeRecord("c:1"));
  told.WaitFor({"a:1", "b:1", "c:1"});
  const std::vector<Addresses> lists = told.lists();
  const auto whole = std::find(lists.begin(), lists.end(), Addresses({"a:1", "b:1"}));
  EXPECT_EQ(lists.end() - whole, 2) << "none was taken out in between";
}

TEST(EtcdStore_EtcdThatStandsStill, CostsNobody) {
  FakeEtcd etcd;
  Told told;
  EtcdTimes times = QuickTimes();
  times.call_timeout_us = 300'000;
  const auto conductor = Open(etcd.url(), times);
  const auto a = Open(etcd.url(), times);
  ASSERT_TRUE(a->Announce({.name = "a", .address = "a:1"}).ok());
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({"a:1"});
  const size_t before = told.lists().size();
  etcd.SetMood(Mood::kHanging);
  WaitForState(*conductor, etcd, "away for ");
  EXPECT_THAT(conductor->state(), HasSubstr("no whole answer within 300 ms"));
  etcd.EndLeases();  // told by the watch, which is still open
  etcd.SetMood(Mood::kWell);
  WaitForState(*conductor, etcd, "connected");
  WaitForKeys(etcd, 1);
  etcd.PutKey(KeyOf("b"), EncodeNodeRecord("b:1"));
  told.WaitFor({"a:1", "b:1"});
  EXPECT_EQ(told.lists().size(), before + 1);
}

TEST(EtcdStore_NodeGoneWhileEtcdWasAway, GoesAfterTheGrace) {
  FakeEtcd etcd;
  Told told;
  EtcdTimes times = QuickTimes();
  times.grace_us = 100'000;
  const auto conductor = Open(etcd.url(), times);
  etcd.PutKey(KeyOf("a"), EncodeNodeRecord("a:1"));
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({"a:1"});
  etcd.SetMood(Mood::kFailing);
  WaitForState(*conductor, etcd, "away for ");
  EXPECT_THAT(conductor->state(), HasSubstr("no leader"));
  etcd.DeleteKey(KeyOf("a"));
  etcd.SetMood(Mood::kWell);
  told.WaitFor({});
}

TEST(EtcdStore_EtcdThatLostItsDisk, IsToldAgain) {
  FakeEtcd etcd;
  Told told;
  const auto conductor = Open(etcd.url());
  const auto a = Open(etcd.url());
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  ASSERT_TRUE(a->Announce({.name = "a", .address = "a:1"}).ok());
  told.WaitFor({"a:1"});
  for (int i = 0; i < 20; ++i) etcd.PutKey("/elsewhere", "x");
  etcd.WaitForCalls("/v3/kv/range", 4);
  const size_t before = told.lists().size();
  etcd.LoseDisk();
  WaitForKeys(etcd, 1);
  etcd.PutKey(KeyOf("b"), EncodeNodeRecord("b:1"));
  told.WaitFor({"a:1", "b:1"});
  EXPECT_EQ(told.lists().size(), before + 1);
}

TEST(EtcdStore_BadAnswers, AreErrorsWithWordsAndCostNobody) {
  FakeEtcd etcd;
  Told told;
  const auto store = Open(etcd.url());
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  ASSERT_TRUE(store->Announce({.name = "a", .address = "a:1"}).ok());
  told.WaitFor({"a:1"});
  const std::pair<Mood, std::string> moods[] = {{Mood::kNotJson, "not JSON"},
                                                {Mood::kWrongType, "field 'header'"},
                                                {Mood::kHuge, "more than 8 MiB"}};
  for (const auto& [mood, message] : moods) {
    etcd.SetMood(mood);
    etcd.WaitForCalls("/v3/lease/keepalive", 3);
    EXPECT_THAT(store->state(), StartsWith("away for "));
    EXPECT_THAT(store->state(), HasSubstr(message));
  }
  etcd.SetMood(Mood::kWell);
  WaitForState(*store, etcd, "connected");
  EXPECT_THAT(told.lists().back(), ElementsAre("a:1"));
}

TEST(EtcdStore_CompactedHistory, IsListedAfresh) {
  FakeEtcd etcd;
  Told told;
  EtcdTimes times = QuickTimes();
  times.list_us = kHourUs;  // the watch alone asks for lists
  const auto conductor = Open(etcd.url(), times);
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({});
  for (int round = 0; round < 3; ++round) {
    const std::string name(1, static_cast<char>('a' + round));
    etcd.PutKey(KeyOf("x"), EncodeNodeRecord(name + ":1"));
    etcd.Compact();
    told.WaitFor({name + ":1"});
  }
}

TEST(EtcdStore_WatchThatFallsSilent, IsBegunAgain) {
  FakeEtcd etcd;
  Told told;
  const auto conductor = Open(etcd.url());
  ASSERT_TRUE(conductor->Follow(told.callback()).ok());
  told.WaitFor({});
  etcd.PutKey(KeyOf("a"), EncodeNodeRecord("a:1"));
  told.WaitFor({"a:1"});
  etcd.SilenceWatches();
  etcd.PutKey(KeyOf("b"), EncodeNodeRecord("b:1"));
  etcd.WaitForCalls("/v3/watch", 1);
  told.WaitFor({"a:1", "b:1"});
}

TEST(EtcdStore_KeyDeletedByHand, ComesBack) {
  FakeEtcd etcd;
  const auto a = Open(etcd.url());
  ASSERT_TRUE(a->Announce({.name = "a", .address = "a:1"}).ok());
  etcd.WaitForCalls("/v3/kv/put", 1);
  etcd.DeleteKey(KeyOf("a"));
  etcd.WaitForCalls("/v3/kv/put", 1);
  WaitForKeys(etcd, 1);
}

TEST(EtcdStore_Endpoints, StandInForEachOther) {
  FakeEtcd first;
  FakeEtcd second;
  Told told;
  const auto store = Open(first.url() + "," + second.url());
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  told.WaitFor({});
  second.PutKey(KeyOf("a"), EncodeNodeRecord("a:1"));
  first.Stop();
  told.WaitFor({"a:1"});
  EXPECT_EQ(store->state(), "connected");
  second.Stop();
  while (store->state() == "connected") std::this_thread::yield();
  EXPECT_THAT(store->state(), HasSubstr(first.url()));
  EXPECT_THAT(store->state(), HasSubstr(second.url()));
  EXPECT_THAT(told.lists().back(), ElementsAre("a:1"));
}

TEST(EtcdStore_Password, IsGivenAndGivenAgain) {
  FakeEtcd etcd;
  etcd.AskForPassword("p/w");
  const std::string host = "127.0.0.1:" + std::to_string(etcd.port());
  Told told;
  const auto store = Open("http://root:p%2Fw@" + host);
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  told.WaitFor({});
  etcd.AskForPassword("p/w");  // old tokens are no good any more
  etcd.PutKey(KeyOf("a"), EncodeNodeRecord("a:1"));
  told.WaitFor({"a:1"});
  WaitForState(*store, etcd, "connected");

  const auto wrong = Open("http://root:secret@" + host);
  ASSERT_TRUE(wrong->Follow([](Addresses) {}).ok());
  etcd.WaitForCalls("/v3/auth/authenticate", 2);
  while (wrong->state() == "connecting") std::this_thread::yield();
  EXPECT_THAT(wrong->state(), HasSubstr("user root: status 400"));
  EXPECT_THAT(wrong->state(), Not(HasSubstr("secret")));
}

TEST(EtcdStore_PasswordNobodyAsksFor, DoesNoHarm) {
  FakeEtcd etcd;
  Told told;
  const auto store = Open("http://root:pw@127.0.0.1:" + std::to_string(etcd.port()));
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  told.WaitFor({});
}

TEST(EtcdStore_Destructor, DoesNotWaitForAnEtcdThatHangs) {
  FakeEtcd etcd;
  Told told;
  EtcdTimes times = QuickTimes();
  times.call_timeout_us = kHourUs;  // the test would not end
  auto store = Open(etcd.url(), times);
  ASSERT_TRUE(store->Announce({.name = "a", .address = "a:1"}).ok());
  ASSERT_TRUE(store->Follow(told.callback()).ok());
  told.WaitFor({"a:1"});
  etcd.SetMood(Mood::kHanging);
  etcd.WaitForCalls("/v3/lease/keepalive", 1);
  store.reset();
}

TEST(EtcdStore_Store, ThatIsNotUsedEndsToo) {
  FakeEtcd etcd;
  EXPECT_EQ(Open(etcd.url())->state(), "connecting");
}

TEST(EtcdStore_SecondFollow, IsAnError) {
  FakeEtcd etcd;
  const auto store = Open(etcd.url());
  ASSERT_TRUE(store->Follow([](Addresses) {}).ok());
  EXPECT_FALSE(store->Follow([](Addresses) {}).ok());
  EXPECT_FALSE(store->Announce({.name = "a/b", .address = "a:1"}).ok());
  EXPECT_FALSE(store->Announce({.name = "a", .address = "a"}).ok());
}

TEST(OpenMetaStore_BadArguments, AreNamedWithoutPasswords) {
  const auto error = [](const std::string& urls, const MetaStoreOptions& options = {}) {
    const auto store = OpenMetaStore(urls, options);
    return store.ok() ? "" : store.error().message();
  };
  EXPECT_THAT(error(""), HasSubstr("one of them is empty"));
  EXPECT_THAT(error("http://a:1,"), HasSubstr("one of them is empty"));
  EXPECT_THAT(error("a:2379"), HasSubstr("'a:2379': begins with neither"));
  EXPECT_THAT(error("http://a:1/v3"), HasSubstr("has a path"));
  EXPECT_THAT(error("http://a:99999"), HasSubstr("port is not a number"));
  for (const char* urls :
       {"u:secret@a:1", "http://u:secret@a:99999", "http://u:secret@a:1/x", "http://u:sec/ret@a:0",
        "http://usersecret@a:1", "http://u:sec%ret@a:1"}) {
    EXPECT_NE(error(urls), "") << urls;
    EXPECT_THAT(error(urls), Not(HasSubstr("sec"))) << urls;
  }
  EXPECT_THAT(error("http://a:1", {.cluster = "a b"}), HasSubstr("cluster name"));
  EXPECT_THAT(error("http://a:1", {.ttl = std::chrono::seconds(1)}), HasSubstr("from 2 s"));
}

TEST(ParseEndpoints_Url, IsTakenApart) {
  const auto endpoints = etcd::ParseEndpoints("http://a, https://u%40x:p@[::1]:23 ,http://[::2]");
  ASSERT_TRUE(endpoints.ok()) << endpoints.error().message();
  ASSERT_EQ(endpoints->size(), 3u);
  EXPECT_EQ((*endpoints)[0].url(), "http://a:2379");
  EXPECT_EQ((*endpoints)[1].url(), "https://[::1]:23");
  EXPECT_EQ((*endpoints)[1].user, "u@x");
  EXPECT_EQ((*endpoints)[1].password, "p");
  EXPECT_EQ((*endpoints)[2].url(), "http://[::2]:2379");
}

TEST(EtcdTimes_OfAnyLifetime, LeaveTimeForOneMemberThatHangs) {
  for (const int seconds : {2, 10, 60, 3600}) {
    const EtcdTimes times = EtcdTimes::ForLease(std::chrono::seconds(seconds));
    const TimeUs ttl_us = TimeUs{seconds} * 1'000'000;
    EXPECT_LT(times.keep_alive_us + 2 * times.call_timeout_us, ttl_us);
    EXPECT_LE(times.list_us + times.call_timeout_us, times.trust_us);
    // Signs of life come at least keep_alive apart, so a lease that ends was out of reach for this.
    EXPECT_LT(times.trust_us, ttl_us - times.keep_alive_us);
    EXPECT_LE(times.max_retry_us + times.call_timeout_us, times.grace_us);
  }
}

}  // namespace
}  // namespace halfmoon::cluster
