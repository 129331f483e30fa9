// SPDX-License-Identifier: Apache-2.0
// Requests, limits and errors. Streams, disconnects and shutdown are in http_stream_test.cc.
#include "net/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "net/http_client.h"
#include "net/raw_client.h"

namespace halfmoon::net {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using ResponderPtr = std::shared_ptr<Responder>;

// Answers with what it understood of the request.
void Echo(Request request, ResponderPtr responder) {
  std::string text = request.method + " " + request.path;
  for (const auto& [name, value] : request.query) text += " " + name + "=" + value;
  Response response = TextResponse(200, text + "|" + request.body);
  if (const auto id = request.headers.Find("X-Request-Id")) {
    response.headers.Add("X-Request-Id", std::string(*id));
  }
  responder->Send(std::move(response));
}

std::unique_ptr<HttpServer> StartServer(HttpServerOptions options = {},
                                        HttpHandler handler = Echo) {
  auto server = HttpServer::Start(std::move(options), std::move(handler));
  EXPECT_TRUE(server.ok()) << (server.ok() ? "" : server.error().message());
  return std::move(server).value();
}

size_t CountOf(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

TEST(HttpServer, GetAndPost_AreAnswered) {
  const auto server = StartServer();
  HttpClient client({.port = server->port()});
  const auto get = client.Get("/a%20b?x=1&y=2");
  ASSERT_TRUE(get.ok()) << get.error().message();
  EXPECT_EQ(get->status, 200);
  EXPECT_EQ(get->body, "GET /a b x=1 y=2|");
  EXPECT_TRUE(get->headers.Find("Date"));
  EXPECT_EQ(get->headers.Find("Server"), "halfmoon");
  const std::string large(3 << 20, 'b');
  const auto post = client.PostJson("/p", large);
  ASSERT_TRUE(post.ok()) << post.error().message();
  EXPECT_EQ(post->body, "POST /p|" + large);
  EXPECT_EQ(server->url(), "http://127.0.0.1:" + std::to_string(server->port()));
  EXPECT_EQ(server->num_connections(), 1u);  // Kept alive.
}

TEST(HttpServer, PipelinedRequests_AreAnsweredInOrder) {
  const auto server = StartServer();
  RawClient client(server->port());
  client.Send(
      "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"
      "GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string all = client.ReadAll();
  EXPECT_LT(all.find("GET /1|"), all.find("POST /2|ok"));
  EXPECT_LT(all.find("POST /2|ok"), all.find("GET /3|"));
  EXPECT_THAT(all, Not(HasSubstr("<timeout>")));
  EXPECT_EQ(CountOf(all, "Connection: close"), 1u);
}

TEST(HttpServer, Http10_ClosesUnlessAskedNotTo) {
  const auto server = StartServer();
  RawClient plain(server->port());
  plain.Send("GET /a HTTP/1.0\r\n\r\n");
  const std::string answer = plain.ReadAll();
  EXPECT_THAT(answer, HasSubstr("Connection: close\r\n"));
  EXPECT_THAT(answer, HasSubstr("GET /a|"));
  RawClient keeping(server->port());
  keeping.Send("GET /b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_THAT(keeping.ReadUntil("GET /b|"), HasSubstr("Connection: keep-alive\r\n"));
  keeping.Send("GET /c HTTP/1.0\r\n\r\n");
  EXPECT_THAT(keeping.ReadAll(), HasSubstr("GET /c|"));
}

TEST(HttpServer, Head_HasLengthButNoBody) {
  const auto server = StartServer();
  RawClient client(server->port());
  client.Send("HEAD /abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, HasSubstr("Content-Length: 10\r\n"));
  EXPECT_TRUE(answer.ends_with("\r\n\r\n")) << answer;
}

TEST(HttpServer, StatusWithoutBody_WritesNone) {
  const auto server = StartServer({}, [](Request, ResponderPtr responder) {
    responder->Send({.status = 204, .body = "must not appear"});
  });
  RawClient client(server->port());
  client.Send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 204 No Content\r\n"));
  EXPECT_THAT(answer, Not(HasSubstr("Content-Length")));
  EXPECT_TRUE(answer.ends_with("\r\n\r\n")) << answer;
}

TEST(HttpServer, ExpectContinue_IsInvitedOnce) {
  const auto server = StartServer({.max_body_bytes = 100});
  RawClient client(server->port());
  client.Send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("body");
  EXPECT_THAT(client.ReadUntil("|body"), StartsWith("HTTP/1.1 200 OK\r\n"));
  // A body that would be refused is not invited.
  client.Send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 400\r\n\r\n");
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 413 "));
}

TEST(HttpServer, RefusedRequests_GetTheErrorBodyAndClose) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  options.max_header_bytes = 2000;
  options.error_body = [](int status, std::string_view message) {
    return ErrorBody{"application/json", "{\"mine\":" + std::to_string(status) + ",\"why\":\"" +
                                             std::string(message) + "\"}"};
  };
  const auto server = StartServer(options);
  const auto refused = [&](const std::string& bytes, int status) {
    RawClient client(server->port());
    client.Send(bytes);
    const std::string answer = client.ReadAll();
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 " + std::to_string(status) + " ")) << bytes;
    EXPECT_THAT(answer, HasSubstr("{\"mine\":" + std::to_string(status)));
    EXPECT_THAT(answer, HasSubstr("Content-Type: application/json\r\n"));
    EXPECT_THAT(answer, HasSubstr("Connection: close\r\n"));
    EXPECT_EQ(CountOf(answer, "\r\nHTTP/1.1 "), 0u);
  };
  refused("garbage\r\n\r\n", 400);
  refused(
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
      "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
      400);
  refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413);
  refused("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(5000, 'a') + "\r\n\r\n", 431);
  refused("GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505);
}

TEST(HttpServer, HugeBodyRefused_ClientStillReadsTheAnswer) {
  const auto server = StartServer({.max_body_bytes = 1000});
  RawClient client(server->port());
  client.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n");
  EXPECT_TRUE(client.Send(std::string(4'000'000, 'x')));
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(answer, Not(HasSubstr("<reset>")));
}

TEST(HttpServer, ChunkedBody_IsDecoded) {
  const auto server = StartServer();
  RawClient client(server->port());
  client.Send("POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (const char* piece : {"3", "\r\nab", "c\r\n0\r", "\n\r\n"}) {
    client.Send(piece);
    ::usleep(2000);
  }
  EXPECT_THAT(client.ReadUntil("|abc"), HasSubstr("POST /c|abc"));
}

TEST(HttpServer, SlowHeadAndBody_Get408) {
  const auto server =
      StartServer({.header_timeout = milliseconds(80), .body_timeout = milliseconds(80)});
  RawClient head(server->port());
  head.Send("GET / HT");
  EXPECT_THAT(head.ReadAll(), StartsWith("HTTP/1.1 408 "));
  RawClient body(server->port());
  body.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
  EXPECT_THAT(body.ReadAll(), StartsWith("HTTP/1.1 408 "));
  RawClient silent(server->port());
  EXPECT_EQ(silent.ReadAll(), "");
}

TEST(HttpServer, DrippingHead_DoesNotExtendItsTime) {
  const auto server = StartServer({.header_timeout = milliseconds(100)});
  RawClient client(server->port());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100 && client.Send("G"); ++i) ::usleep(10'000);
  EXPECT_THAT(client.ReadAll(),
              ::testing::AnyOf(StartsWith("HTTP/1.1 408 "), HasSubstr("<reset>")));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));
}

TEST(HttpServer, IdleConnection_IsClosedSilently) {
  const auto server = StartServer({.idle_timeout = milliseconds(60)});
  RawClient client(server->port());
  client.Send("GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string all = client.ReadAll();
  EXPECT_TRUE(all.ends_with("GET /x|")) << all;
}

TEST(HttpServer, RequestCutShort_Gets400) {
  const auto server = StartServer();
  RawClient client(server->port());
  client.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
  client.ShutdownSend();
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 400 "));
}

TEST(HttpServer, TooManyConnections_Get503AndRetryAfter) {
  const auto server = StartServer({.max_connections = 2, .retry_after_s = 7});
  RawClient one(server->port());
  one.Send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
  one.ReadUntil("GET /1|");
  auto two = std::make_unique<RawClient>(server->port());
  two->Send("GET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
  two->ReadUntil("GET /2|");
  RawClient three(server->port());
  const std::string answer = three.ReadAll();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(answer, HasSubstr("Retry-After: 7\r\n"));
  three.Close();
  two.reset();
  for (int i = 0; i < 1000 && server->num_connections() > 1; ++i) ::usleep(5000);
  RawClient four(server->port());
  four.Send("GET /4 HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(four.ReadUntil("GET /4|"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST(HttpServer, DroppedResponder_Sends500AndGoesOn) {
  const auto server = StartServer({}, [](Request request, ResponderPtr responder) {
    if (request.path == "/drop") return;
    if (request.path == "/throw") throw std::runtime_error("thrown on purpose");
    Echo(std::move(request), std::move(responder));
  });
  HttpClient client({.port = server->port()});
  for (const char* path : {"/drop", "/throw", "/drop"}) {
    const auto response = client.Get(path);
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->status, 500);
    EXPECT_THAT(response->body, HasSubstr("\"error\""));
  }
  EXPECT_EQ(client.Get("/fine")->status, 200);
  EXPECT_EQ(server->num_connections(), 1u);
}

TEST(HttpServer, SecondAnswer_IsRefused) {
  std::atomic<int> refused{0};
  const auto server = StartServer({}, [&](Request, ResponderPtr responder) {
    EXPECT_TRUE(responder->Send(TextResponse(200, "first")));
    refused += !responder->Send(TextResponse(200, "second"));
    refused += !responder->StartStream({});
    refused += responder->Write("x") == WriteResult::kClosed;
    refused += !responder->Finish();
  });
  HttpClient client({.port = server->port()});
  EXPECT_EQ(client.Get("/")->body, "first");
  EXPECT_EQ(client.Get("/")->body, "first");
  EXPECT_EQ(refused, 8);
}

TEST(HttpServer, HeadersFromHandler_CannotBreakFraming) {
  const auto server = StartServer({}, [](Request, ResponderPtr responder) {
    responder->Send({200,
                     {{"Content-Length", "999"},
                      {"Transfer-Encoding", "chunked"},
                      {"X-Bad", "a\r\nX-Injected: b"},
                      {"X-Good", "g"}},
                     "body"});
  });
  HttpClient client({.port = server->port()});
  const auto response = client.Get("/");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "body");
  EXPECT_EQ(response->headers.Find("X-Good"), "g");
  EXPECT_FALSE(response->headers.Find("X-Injected"));
}

TEST(HttpServer, AnswerFromAnotherThread_Arrives) {
  std::vector<std::thread> workers;
  std::mutex mutex;
  const auto server = StartServer({}, [&](Request request, ResponderPtr responder) {
    std::lock_guard lock(mutex);
    workers.emplace_back([request = std::move(request), responder = std::move(responder)] {
      ::usleep(5000);
      responder->Send(TextResponse(200, request.path));
    });
  });
  HttpClient client({.port = server->port()});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(client.Get("/w")->body, "/w");
  std::lock_guard lock(mutex);
  for (std::thread& worker : workers) worker.join();
}

TEST(HttpServer, TwoHundredConnections_AreServedAtOnce) {
  // Each request is held until all have arrived, so they really are there at the same time.
  constexpr int kClients = 200;
  std::mutex mutex;
  std::vector<ResponderPtr> held;
  const auto server = StartServer({}, [&](Request, ResponderPtr responder) {
    std::lock_guard lock(mutex);
    held.push_back(std::move(responder));
    if (held.size() < kClients) return;
    for (const ResponderPtr& each : held) each->Send(TextResponse(200, "all here"));
    held.clear();
  });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<RawClient>(server->port()));
    ASSERT_TRUE(clients.back()->connected());
    clients.back()->Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  for (const auto& client : clients)
    EXPECT_THAT(client->ReadUntil("all here"), HasSubstr("all here"));
}

TEST(HttpServer, BadOptions_AreClearErrors) {
  const auto error_of = [](HttpServerOptions options, HttpHandler handler = Echo) {
    const auto server = HttpServer::Start(std::move(options), std::move(handler));
    EXPECT_FALSE(server.ok());
    return server.ok() ? Error(ErrorCode::kInternal, "started") : server.error();
  };
  const auto running = StartServer();
  const Error in_use = error_of({.port = running->port()});
  EXPECT_EQ(in_use.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(in_use.message(), HasSubstr("in use"));
  EXPECT_THAT(in_use.message(), HasSubstr(std::to_string(running->port())));
  const Error host = error_of({.host = "no such host.invalid"});
  EXPECT_EQ(host.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(host.message(), HasSubstr("no such host.invalid"));
  EXPECT_THAT(error_of({.host = "203.0.113.7"}).message(), HasSubstr("no interface"));
  EXPECT_EQ(error_of({.io_threads = 0}).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of({.max_header_bytes = 1}).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of({.idle_timeout = milliseconds(0)}).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of({}, nullptr).code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error_of({.tls_certificate_file = "a"}).message(), HasSubstr("both"));
  EXPECT_THAT(
      error_of({.tls_certificate_file = "absent.pem", .tls_key_file = "absent.key"}).message(),
      HasSubstr("absent.pem"));
}

TEST(HttpServer, Timers_RunOnItsThreadsUntilStop) {
  const auto server = StartServer();
  Event ran;
  server->timers().After(milliseconds(5), [&] { ran.Set(); });
  EXPECT_TRUE(ran.Wait());
  server->timers().Every(milliseconds(1), [] {});
  server->Stop(milliseconds(0));
  EXPECT_FALSE(server->timers().Post([] {}));
}

}  // namespace
}  // namespace halfmoon::net
