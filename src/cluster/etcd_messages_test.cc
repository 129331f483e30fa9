// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfmoon::cluster::etcd {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::string ErrorOf(const Result<T>& result) {
  EXPECT_FALSE(result.ok());
  if (result.ok()) return "";
  EXPECT_EQ(result.error().code(), ErrorCode::kCorrupt);
  return result.error().message();
}

TEST(Base64_Vectors, OfTheStandardAndBackAgain) {
  // RFC 4648, section 10.
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, text] : vectors) {
    EXPECT_EQ(EncodeBase64(bytes), text);
    ASSERT_TRUE(DecodeBase64(text).ok()) << text;
    EXPECT_EQ(*DecodeBase64(text), bytes);
  }
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(*DecodeBase64(EncodeBase64(all)), all);
}

TEST(Base64_BadText, IsAnError) {
  for (const char* text : {"Z", "Zg=", "Zg===", "====", "Zm9*", "Z=9v", "Zm9\n"}) {
    EXPECT_FALSE(DecodeBase64(text).ok()) << text;
  }
}

TEST(LeaseGrant_Answer, IsRead) {
  const auto answer = ParseLeaseGrant(
      R"({"header":{"cluster_id":"324952591200643719","revision":"1","raft_term":"2"},)"
      R"("ID":"2324035657134880773","TTL":"5"})");
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  EXPECT_EQ(answer->id, LeaseId{2324035657134880773});
  EXPECT_EQ(answer->ttl_s, 5);
  EXPECT_EQ(answer->header.cluster_id, "324952591200643719");
}

TEST(LeaseGrant_BadAnswer, NamesTheField) {
  EXPECT_THAT(ErrorOf(ParseLeaseGrant("<html>")), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant("[]")), HasSubstr("expected a JSON object, found array"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant("{}")), HasSubstr("'ID' is missing"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant(R"({"ID":"1"})")), HasSubstr("'TTL' is missing"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant(R"({"ID":"1x","TTL":"5"})")), HasSubstr("'ID'"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant(R"({"ID":"99999999999999999999","TTL":"5"})")),
              HasSubstr("'ID'"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant(R"({"ID":{},"TTL":"5"})")), HasSubstr("'ID'"));
  EXPECT_THAT(ErrorOf(ParseLeaseGrant(R"({"header":[],"ID":"1","TTL":"5"})")),
              HasSubstr("'header'"));
}

TEST(KeepAlive_OfALeaseThatEnded, HasNoLifetime) {
  const auto alive = ParseKeepAlive("{\"result\":{\"ID\":\"12\",\"TTL\":\"3\"}}\n");
  ASSERT_TRUE(alive.ok());
  EXPECT_EQ(alive->ttl_s, 3);
  const auto ended = ParseKeepAlive(R"({"result":{"ID":"12"}})");
  ASSERT_TRUE(ended.ok());
  EXPECT_EQ(ended->ttl_s, 0);
  EXPECT_THAT(ErrorOf(ParseKeepAlive("{}")), HasSubstr("'result'"));
}

TEST(Range_Answer, IsReadWithEveryField) {
  const auto answer = ParseRange(
      R"({"header":{"cluster_id":"3","revision":"9"},"kvs":[{"key":"L2gvYQ==",)"
      R"("create_revision":"2","mod_revision":"7","version":"1","value":"djE=","lease":"12"}],)"
      R"("count":"1"})");
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  EXPECT_EQ(answer->header.revision, 9);
  ASSERT_EQ(answer->kvs.size(), 1u);
  EXPECT_EQ(answer->kvs[0].key, "/h/a");
  EXPECT_EQ(answer->kvs[0].value, "v1");
  EXPECT_EQ(answer->kvs[0].mod_revision, 7);
  EXPECT_EQ(answer->kvs[0].lease, LeaseId{12});
  const auto empty = ParseRange(R"({"header":{"revision":"9"}})");
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty->kvs.empty());
}

TEST(Range_BadAnswer, IsNeverAnEmptyList) {
  EXPECT_THAT(ErrorOf(ParseRange("{}")), HasSubstr("'revision'"));
  EXPECT_THAT(ErrorOf(ParseRange(R"({"error":"x"})")), HasSubstr("'revision'"));
  EXPECT_THAT(ErrorOf(ParseRange(R"({"header":{"revision":"-1"}})")), HasSubstr("below zero"));
  const auto kvs = [](const std::string& item) {
    return ErrorOf(ParseRange(R"({"header":{"revision":"9"},"kvs":)" + item + "}"));
  };
  EXPECT_THAT(kvs("7"), HasSubstr("'kvs'"));
  EXPECT_THAT(kvs("[7]"), HasSubstr("kvs[0]: expected an object"));
  EXPECT_THAT(kvs(R"([{"value":"djE=","mod_revision":"1"}])"), HasSubstr("kvs[0]: field 'key'"));
  EXPECT_THAT(kvs(R"([{"key":"*","mod_revision":"1"}])"), HasSubstr("field 'key': not base64"));
  EXPECT_THAT(kvs(R"([{"key":"L2gv"}])"), HasSubstr("'mod_revision'"));
}

TEST(WatchLine_Events, AreRead) {
  const auto answer =
      ParseWatchLine(R"({"result":{"header":{"revision":"6"},"events":[)"
                     R"({"kv":{"key":"L2gvYQ==","mod_revision":"2","value":"djE="}},)"
                     R"({"type":"DELETE","kv":{"key":"L2gvYQ==","mod_revision":"3"}}]}})");
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  ASSERT_EQ(answer->events.size(), 2u);
  EXPECT_FALSE(answer->events[0].deleted);
  EXPECT_EQ(answer->events[0].kv.value, "v1");
  EXPECT_TRUE(answer->events[1].deleted);
  EXPECT_EQ(answer->events[1].kv.mod_revision, 3);
}

TEST(WatchLine_EndOfTheWatch, SaysWhy) {
  const auto compacted = ParseWatchLine(R"({"result":{"canceled":true,"compact_revision":"5"}})");
  ASSERT_TRUE(compacted.ok());
  EXPECT_TRUE(compacted->cancelled);
  EXPECT_EQ(compacted->compact_revision, 5);
  const auto refused = ParseWatchLine(
      R"({"result":{"created":true,"canceled":true,"cancel_reason":"user name is empty"}})");
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->cancel_reason, "user name is empty");
  const auto failed = ParseWatchLine(R"({"error":{"grpc_code":14,"message":"going down"}})");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(failed.error().message(), HasSubstr("going down"));
  EXPECT_THAT(ErrorOf(ParseWatchLine(R"({"result":{"events":[{"type":"MOVE"}]}})")),
              HasSubstr("events[0]: field 'type': 'MOVE'"));
}

TEST(Failure_Kinds, TellWhatToDo) {
  const auto kind = [](int status, std::string_view body) {
    return ParseFailure(status, body).kind;
  };
  EXPECT_EQ(kind(404, R"({"message":"requested lease not found","code":5})"),
            Failure::Kind::kNotFound);
  EXPECT_EQ(kind(401, R"({"message":"invalid auth token","code":16})"), Failure::Kind::kToken);
  EXPECT_EQ(kind(412, R"({"message":"authentication is not enabled","code":9})"),
            Failure::Kind::kNoUsers);
  EXPECT_EQ(kind(403, R"({"message":"permission denied","code":7})"), Failure::Kind::kRefused);
  EXPECT_EQ(kind(503, R"({"message":"no leader","code":14})"), Failure::Kind::kMember);
  const Failure foreign = ParseFailure(404, "Not Found\n");
  EXPECT_EQ(foreign.kind, Failure::Kind::kMember);
  EXPECT_EQ(foreign.message,
            "status 404, which is not how etcd 3.4 or later answers: 'Not Found?'");
}

}  // namespace
}  // namespace halfmoon::cluster::etcd
