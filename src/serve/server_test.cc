// SPDX-License-Identifier: Apache-2.0
// What surrounds generation: loading, keys, routes, limits, disconnects, backpressure, shutdown.
#include "serve/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <thread>

#include "serve/test_support.h"

namespace halfmoon::serve::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kStreamBody[] = R"({"messages":[{"role":"user","content":"hi"}],"stream":true})";
constexpr char kWholeBody[] = R"({"messages":[{"role":"user","content":"hi"}]})";

std::vector<engine::Event> Silent(const engine::Request&) { return {}; }
std::vector<engine::Event> SayHello(const engine::Request& request) {
  return Say(request, "Hello");
}

/// A POST on a thread of its own, whose streamed body can be waited for and which can be ended
/// early.
class Call {
 public:
  Call(TestServer& server, const std::string& target, const std::string& body)
      : client_(server.ClientOptions()), result_(std::async(std::launch::async, [=, this] {
          net::ClientRequest request;
          request.method = "POST";
          request.target = target;
          request.headers.Add("Content-Type", "application/json");
          request.body = body;
          return client_.SendStreaming(request, [this](std::string_view piece) {
            std::lock_guard lock(mutex_);
            body_ += piece;
            arrived_.notify_all();
            return true;
          });
        })) {}
  ~Call() {
    if (result_.valid()) HangUp();
  }

  bool WaitFor(std::string_view text) {
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(lock, std::chrono::seconds(5),
                             [&] { return body_.find(text) != std::string::npos; });
  }
  void HangUp() {
    // Cancel reaches only a request that runs; the thread may not have come that far yet.
    while (result_.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready)
      client_.Cancel();
    static_cast<void>(result_.get());
  }
  /// Status of the answer, 0 where none came whole.
  int Wait() {
    if (result_.wait_for(std::chrono::seconds(10)) != std::future_status::ready) return -1;
    const auto response = result_.get();
    return response.ok() ? response->status : 0;
  }
  std::string body() {
    std::lock_guard lock(mutex_);
    return body_;
  }

 private:
  net::HttpClient client_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::string body_;
  std::future<Result<net::Response>> result_;
};

TEST(ServerLoading, BeforeReady_AnswersWithProgress) {
  TestServer server(SayHello, {}, /*ready=*/false);
  EXPECT_EQ(server.Get("/health").status, 200);
  server.server().SetLoadProgress(25, 100);
  const net::Response ready = server.Get("/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_TRUE(ready.headers.Find("Retry-After"));
  const json::object document = ParseOrFail(ready.body);
  EXPECT_EQ(document.at("status").as_string(), "loading");
  EXPECT_EQ(document.at("progress").at("fraction").as_double(), 0.25);

  const net::Response refused = server.Post(kChat, kWholeBody);
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.Find("Retry-After"));
  EXPECT_THAT(refused.body, HasSubstr("25 %"));
  EXPECT_THAT(refused.body, HasSubstr("model_loading"));

  server.SetReady();
  EXPECT_EQ(server.Get("/ready").status, 200);
  server.PostOk(kChat, kWholeBody);
}

TEST(ServerLoading, Failure_IsTold) {
  TestServer server(SayHello, {}, /*ready=*/false);
  server.server().SetFailed(Error(ErrorCode::kCorrupt, "tensor x is short"));
  EXPECT_EQ(server.Get("/health").status, 200);
  EXPECT_THAT(server.Get("/ready").body, HasSubstr("tensor x is short"));
  EXPECT_THAT(server.Post(kChat, kWholeBody).body, HasSubstr("tensor x is short"));
}

TEST(ServerStart, WrongOptions_AreErrors) {
  ServerOptions options;
  options.worker_threads = 0;
  EXPECT_FALSE(Server::Start(options).ok());
  options.worker_threads = 1;
  options.api_keys = {""};
  EXPECT_FALSE(Server::Start(options).ok());
}

TEST(ServerRoutes, UnknownPathAndMethod_HaveTheErrorShape) {
  TestServer server(SayHello);
  EXPECT_EQ(server.PostError("/v1/nothing", "{}", 404).at("code").as_string(), "not_found");
  EXPECT_EQ(server.PostError("/v1/models", "{}", 405).at("code").as_string(), "method_not_allowed");
  const net::Response response = server.Get(kChat);
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.headers.Find("Allow").value_or(""), "POST");
}

TEST(ServerRoutes, Models_AreListed) {
  ServerOptions options;
  options.served_model_names = {"org/first", "second"};
  TestServer server(SayHello, options);
  const json::object list = ParseOrFail(server.Get("/v1/models").body);
  ASSERT_EQ(list.at("data").as_array().size(), 2u);
  const json::object& first = list.at("data").as_array()[0].as_object();
  EXPECT_EQ(first.at("id").as_string(), "org/first");
  EXPECT_EQ(first.at("max_model_len").as_int64(), kContext);
  EXPECT_EQ(first.at("license").as_string(), "Apache-2.0");
  EXPECT_EQ(first.at("license_note").as_string(), "as the note says");
  EXPECT_EQ(server.Get("/v1/models/org%2Ffirst").status, 200);
  EXPECT_EQ(server.Get("/v1/models/org/first").status, 200);
  EXPECT_EQ(server.Get("/v1/models/tiny").status, 404);
  EXPECT_EQ(server.PostOk(kChat, kWholeBody).at("model").as_string(), "org/first");
}

TEST(ServerRoutes, LandingAndVersion_TellHowToUseIt) {
  TestServer server(SayHello);
  const std::string page = server.Get("/").body;
  EXPECT_THAT(page, HasSubstr(server.server().url() + "/v1"));
  EXPECT_THAT(page, HasSubstr("tiny"));
  EXPECT_THAT(page, HasSubstr("curl"));
  EXPECT_EQ(ParseOrFail(server.Get("/version").body).at("version").as_string(), "1.2.3");
}

TEST(ServerRoutes, EveryAnswer_HasARequestId) {
  TestServer server(SayHello);
  EXPECT_TRUE(server.Get("/health").headers.Find("X-Request-Id"));
  EXPECT_TRUE(server.Get("/nothing").headers.Find("X-Request-Id"));
}

TEST(ServerRoutes, OtherContentTypes_AreRefused) {
  TestServer server(SayHello);
  net::HttpClient client(server.ClientOptions());
  net::ClientRequest request;
  request.method = "POST";
  request.target = kChat;
  request.body = kWholeBody;
  request.headers.Set("Content-Type", "text/plain");
  EXPECT_EQ(client.Send(request)->status, 415);
  request.headers.Set("Content-Type", "application/json; charset=utf-8");
  EXPECT_EQ(client.Send(request)->status, 200);
}

TEST(ServerLimits, BodyAndHeaders_AreBounded) {
  ServerOptions options;
  options.http.max_body_bytes = 1000;
  options.http.max_header_bytes = 1000;
  TestServer server(SayHello, options);
  EXPECT_EQ(server.PostError(kChat, std::string(2000, ' '), 413).at("code").as_string(),
            "request_too_large");
  net::HttpClient client(server.ClientOptions());
  net::ClientRequest request;
  request.headers.Add("X-Long", std::string(2000, 'x'));
  const auto response = client.Send(request);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 431);
  EXPECT_THAT(response->body, HasSubstr("headers_too_large"));
}

TEST(ServerKeys, WithKeys_OnlyHoldersAreLetIn) {
  ServerOptions options;
  options.api_keys = {"first-key", "second-key"};
  TestServer server(SayHello, options);
  const auto status = [&](std::string target, std::string authorization) {
    net::HttpClient client(server.ClientOptions());
    net::ClientRequest request;
    request.target = std::move(target);
    if (!authorization.empty()) request.headers.Set("Authorization", std::move(authorization));
    return client.Send(request)->status;
  };
  EXPECT_EQ(status("/v1/models", ""), 401);
  EXPECT_EQ(status("/v1/models", "Bearer wrong"), 401);
  EXPECT_EQ(status("/v1/models", "Bearer "), 401);
  EXPECT_EQ(status("/v1/models", "Bearer first-key-and-more"), 401);
  EXPECT_EQ(status("/v1/models", "Basic first-key"), 401);
  EXPECT_EQ(status("/v1/models", "Bearer first-key"), 200);
  EXPECT_EQ(status("/v1/models", "bearer second-key"), 200);
  EXPECT_EQ(status("/nothing", ""), 401);
  for (const char* open : {"/", "/health", "/ready", "/metrics"})
    EXPECT_EQ(status(open, ""), 200) << open;
  EXPECT_EQ(server.PostError(kChat, kWholeBody, 401).at("code").as_string(), "invalid_api_key");
  EXPECT_THAT(server.Get("/").body, Not(HasSubstr("tiny")));
}

TEST(ServerCors, OffUnlessAsked) {
  const auto preflight = [](TestServer& server, std::string origin) {
    net::HttpClient client(server.ClientOptions());
    net::ClientRequest request;
    request.method = "OPTIONS";
    request.target = kChat;
    request.headers.Set("Origin", std::move(origin));
    request.headers.Set("Access-Control-Request-Method", "POST");
    request.headers.Set("Access-Control-Request-Headers", "authorization");
    return *client.Send(request);
  };
  TestServer closed(SayHello);
  EXPECT_EQ(preflight(closed, "https://a.example").status, 405);
  ServerOptions options;
  options.cors_origins = {"https://a.example"};
  options.api_keys = {"key"};
  TestServer open(SayHello, options);
  const net::Response allowed = preflight(open, "https://a.example");
  EXPECT_EQ(allowed.status, 204);
  EXPECT_EQ(allowed.headers.Find("Access-Control-Allow-Origin").value_or(""), "https://a.example");
  EXPECT_EQ(allowed.headers.Find("Access-Control-Allow-Headers").value_or(""), "authorization");
  EXPECT_FALSE(preflight(open, "https://b.example").headers.Find("Access-Control-Allow-Origin"));
}

TEST(ServerMetrics, Page_HasOwnNamesAndThoseOfVllm) {
  TestServer server(SayHello);
  server.PostOk(kChat, kWholeBody);
  server.PostError(kChat, "{", 400);
  // A request has ended when its answer has been written, which a client may have read a moment
  // before that is counted.
  const std::string ended = "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 1";
  net::Response response = server.Get("/metrics");
  for (int i = 0; i < 500 && response.body.find(ended) == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    response = server.Get("/metrics");
  }
  EXPECT_THAT(std::string(response.headers.Find("Content-Type").value_or("")),
              HasSubstr("version=0.0.4"));
  for (const char* line :
       {"halfmoon_requests_running{model_name=\"tiny\"} 3",
        "vllm:num_requests_running{model_name=\"tiny\"} 3",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 2",
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.5",
        "vllm:prompt_tokens_total{model_name=\"tiny\"} 100",
        "vllm:generation_tokens_total{model_name=\"tiny\"} 7",
        "vllm:prefix_cache_hits_total{model_name=\"tiny\"} 40",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "vllm:time_per_output_token_seconds_count{model_name=\"tiny\"} 5", ended.c_str(),
        "vllm:request_success_total{finished_reason=\"stop\",model_name=\"tiny\"} 1",
        "halfmoon_http_requests_total{route=\"/v1/chat/"
        "completions\",status=\"400\",model_name=\"tiny\"} 1"}) {
    EXPECT_THAT(response.body, HasSubstr(line));
  }
}

TEST(ServerDisconnect, WhileQueued_Cancels) {
  TestServer server(Silent);
  for (const char* body : {kStreamBody, kWholeBody}) {
    const size_t index = server.engine().num_sequences();
    Call call(server, kChat, body);
    const auto sequence = server.engine().WaitSequence(index);
    ASSERT_NE(sequence, nullptr);
    call.HangUp();
    EXPECT_TRUE(sequence->WaitCancelled());
  }
}

TEST(ServerDisconnect, InTheMiddleOfAStream_CancelsEveryChoice) {
  TestServer server(Silent);
  Call call(server, kChat, R"({"messages":[{"role":"user","content":"hi"}],"stream":true,"n":2})");
  const auto first = server.engine().WaitSequence(0);
  const auto second = server.engine().WaitSequence(1);
  ASSERT_TRUE(first && second);
  first->Push(engine::PromptEvent{});
  first->Push(Token('a'));
  ASSERT_TRUE(call.WaitFor("\"a\""));
  call.HangUp();
  EXPECT_TRUE(first->WaitCancelled());
  EXPECT_TRUE(second->WaitCancelled());
}

TEST(ServerBackpressure, SlowReader_HoldsTheEngineBack) {
  ServerOptions options;
  options.http.max_stream_buffer_bytes = 4096;
  TestServer server(Silent, options);
  net::HttpClient client(server.ClientOptions());
  std::promise<void> go_on;
  std::shared_future<void> may_go_on = go_on.get_future().share();
  std::string body;
  auto call = std::async(std::launch::async, [&] {
    net::ClientRequest request;
    request.method = "POST";
    request.target = "/v1/completions";
    request.headers.Add("Content-Type", "application/json");
    request.body = R"({"prompt":"a","stream":true,"logprobs":20,"max_tokens":100000})";
    return client.SendStreaming(request, [&](std::string_view piece) {
      body += piece;
      may_go_on.wait();
      return true;
    });
  });
  const auto sequence = server.engine().WaitSequence(0);
  ASSERT_NE(sequence, nullptr);
  sequence->Push(engine::PromptEvent{});
  // As the engine does, hand out a bounded number of tokens and wait until they are taken, up to
  // far more than the buffers of server and operating system hold (about 60 KiB a round).
  size_t num_tokens = 0;
  bool held_back = false;
  for (int round = 0; round < 2000 && !held_back; ++round) {
    constexpr size_t kCapacity = 256;
    for (size_t i = 0; i < kCapacity; ++i) sequence->Push(Token('a', 20));
    num_tokens += kCapacity;
    for (int wait = 0; wait < 300 && sequence->num_waiting() > 0; ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    held_back = sequence->num_waiting() >= kCapacity;
  }
  EXPECT_TRUE(held_back) << num_tokens << " tokens were taken for a client that reads nothing";
  sequence->Push(engine::FinishEvent{});
  go_on.set_value();
  ASSERT_TRUE(call.get().ok());
  const auto parts = SplitStream(body);
  std::string text;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    text += ParseOrFail(parts[i]).at("choices").as_array()[0].as_object().at("text").as_string();
  }
  EXPECT_EQ(text.size(), num_tokens);
  EXPECT_EQ(parts.back(), "[DONE]");
}

TEST(ServerQueue, ConcurrentRequests_AllGetTheirOwnAnswer) {
  TestServer server([](const engine::Request& request) {
    return Say(request, std::string(1, static_cast<char>(request.prompt_ids.back())));
  });
  std::vector<std::future<bool>> calls;
  calls.reserve(16);
  for (int i = 0; i < 16; ++i) {
    calls.push_back(std::async(std::launch::async, [&server, i] {
      net::HttpClient client(server.ClientOptions());
      const std::string letter(1, static_cast<char>('a' + i));
      for (int k = 0; k < 10; ++k) {
        const auto response =
            client.PostJson("/v1/completions", R"({"prompt":"x)" + letter + "\"}");
        if (!response.ok() ||
            response->body.find("\"text\":\"" + letter + "\"") == std::string::npos)
          return false;
      }
      return true;
    }));
  }
  for (auto& call : calls) EXPECT_TRUE(call.get());
}

TEST(ServerShutdown, WhileDraining_RunningGoOnAndNewAreRefused) {
  TestServer server(Silent);
  Call call(server, kChat, kStreamBody);
  const auto sequence = server.engine().WaitSequence(0);
  ASSERT_NE(sequence, nullptr);
  sequence->Push(engine::PromptEvent{});
  ASSERT_TRUE(call.WaitFor("assistant"));
  auto shutdown =
      std::async(std::launch::async, [&] { server.server().Shutdown(std::chrono::seconds(30)); });
  for (int i = 0; i < 500 && server.Get("/ready").status == 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_THAT(server.Get("/ready").body, HasSubstr("draining"));
  EXPECT_EQ(server.Get("/health").status, 200);
  const net::Response refused = server.Post(kChat, kWholeBody);
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.Find("Retry-After"));
  sequence->Push(Token('a'));
  sequence->Push(engine::FinishEvent{});
  EXPECT_EQ(call.Wait(), 200);
  EXPECT_THAT(call.body(), HasSubstr("[DONE]"));
  EXPECT_THAT(call.body(), Not(HasSubstr("error")));
  EXPECT_EQ(shutdown.wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

TEST(ServerShutdown, AfterTheGrace_EveryAnswerEndsWithAReason) {
  TestServer server(Silent);
  Call stream(server, kChat, kStreamBody);
  const auto first = server.engine().WaitSequence(0);
  Call whole(server, kChat, kWholeBody);
  const auto second = server.engine().WaitSequence(1);
  ASSERT_TRUE(first && second);
  first->Push(engine::PromptEvent{});
  ASSERT_TRUE(stream.WaitFor("assistant"));
  server.server().Shutdown(std::chrono::milliseconds(50));
  EXPECT_EQ(stream.Wait(), 200);
  EXPECT_THAT(stream.body(), HasSubstr("shutting_down"));
  EXPECT_THAT(stream.body(), HasSubstr("data: [DONE]"));
  EXPECT_EQ(whole.Wait(), 503);
  EXPECT_THAT(whole.body(), HasSubstr("shutting_down"));
  EXPECT_TRUE(first->WaitCancelled());
  EXPECT_TRUE(second->WaitCancelled());
  server.server().Shutdown(std::chrono::milliseconds(0));  // again is harmless
}

}  // namespace
}  // namespace halfmoon::serve::testing
