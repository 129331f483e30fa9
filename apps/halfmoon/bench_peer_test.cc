// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_peer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/halfmoon/embedded_files.h"

namespace halfmoon::app {
namespace {

using testing::HasSubstr;

constexpr TimeUs kLongUs = 60'000'000;

Result<json::object> ReplyOf(const std::string& script) {
  HM_ASSIGN(ChildProcess worker, ChildProcess::Start({.name = "peer"}, {"sh", "-c", script}));
  return AskWorker(&worker, {{"do", "load"}}, kLongUs);
}

TEST(FindPeerBuild, Names_FoundOrListed) {
  EXPECT_THAT(FindPeerBuild("llama.cpp")->cmake_args, HasSubstr("GGML_NATIVE=ON"));
  EXPECT_THAT(FindPeerBuild("llama.cpp:avx2")->cmake_args, HasSubstr("GGML_AVX512=OFF"));
  const Result<PeerBuild> other = FindPeerBuild("vllm");
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(other.error().message(), HasSubstr("known: llama.cpp, llama.cpp:avx2"));
}

TEST(EmbeddedFiles, WorkerAndRequirements_Whole) {
  EXPECT_THAT(std::string(EmbeddedLlamaCppWorker()), HasSubstr("sys.exit(main())"));
  EXPECT_THAT(std::string(EmbeddedBenchRequirements()), HasSubstr("llama-cpp-python=="));
  EXPECT_FALSE(BuildCommit().empty());
}

TEST(AskWorker, Object_IsTheReply) {
  const Result<json::object> reply = ReplyOf("read line; echo '{\"seconds\": 2}'; read line");
  ASSERT_TRUE(reply.ok()) << reply.error().message();
  EXPECT_EQ(reply->at("seconds"), 2);
}

TEST(AskWorker, Error_NamesTheWorker) {
  const Result<json::object> reply = ReplyOf("read line; echo '{\"error\": \"no such file\"}'");
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().message(), "peer: no such file");
}

TEST(AskWorker, Nonsense_IsShown) {
  for (const char* line : {"segmentation fault", "[1]", "{\\\"a\\\":"}) {
    const Result<json::object> reply = ReplyOf(std::string("read line; echo \"") + line + "\"");
    ASSERT_FALSE(reply.ok()) << line;
    EXPECT_EQ(reply.error().code(), ErrorCode::kCorrupt);
    EXPECT_THAT(reply.error().message(), HasSubstr("peer: expected a line with a JSON object"));
  }
}

TEST(AskWorker, Dies_SaysHow) {
  const Result<json::object> reply = ReplyOf("read line; exit 9");
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(reply.error().message(), HasSubstr("peer: ended with code 9"));
}

TEST(StartPeerWorker, NoVersion_Refused) {
  // "true" takes the arguments of a Python and says nothing.
  const Result<PeerWorker> worker =
      StartPeerWorker({.name = "peer"}, {.python = "true", .model = "m.gguf"}, kLongUs);
  ASSERT_FALSE(worker.ok());
  EXPECT_THAT(worker.error().message(), HasSubstr("peer: ended with code 0"));
}

}  // namespace
}  // namespace halfmoon::app
