// SPDX-License-Identifier: Apache-2.0
// Streamed answers, clients that go away or are slow, and shutdown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "net/http_client.h"
#include "net/http_server.h"
#include "net/raw_client.h"
#include "net/sse.h"

namespace halfmoon::net {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

using ResponderPtr = std::shared_ptr<Responder>;

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

// Keeps the Responder of the last request for the test to use.
class Holder {
 public:
  HttpHandler handler() {
    return [this](Request, ResponderPtr responder) {
      responder->OnDisconnect([this] {
        ++disconnects_;
        disconnected_.Set();
      });
      std::lock_guard lock(mutex_);
      responder_ = std::move(responder);
    };
  }
  // Waits for the next request.
  ResponderPtr Take() {
    for (int i = 0; i < 10'000; ++i) {
      {
        std::lock_guard lock(mutex_);
        if (responder_) return std::exchange(responder_, nullptr);
      }
      ::usleep(1000);
    }
    ADD_FAILURE() << "no request arrived";
    return nullptr;
  }
  const Event& disconnected() const { return disconnected_; }
  int disconnects() const { return disconnects_; }

 private:
  std::mutex mutex_;
  ResponderPtr responder_;
  Event disconnected_;
  std::atomic<int> disconnects_{0};
};

std::unique_ptr<HttpServer> StartServer(HttpServerOptions options, HttpHandler handler) {
  auto server = HttpServer::Start(std::move(options), std::move(handler));
  EXPECT_TRUE(server.ok()) << (server.ok() ? "" : server.error().message());
  return std::move(server).value();
}

bool BecomesEmpty(const HttpServer& server) {
  for (int i = 0; i < 2000 && server.num_connections() > 0; ++i) ::usleep(5000);
  return server.num_connections() == 0;
}

// Writes until the bound is met; how many bytes were taken.
size_t FillUp(Responder& responder, size_t chunk_bytes, size_t limit_bytes) {
  const std::string chunk(chunk_bytes, 'f');
  size_t taken = 0;
  while (taken < limit_bytes && responder.Write(chunk) == WriteResult::kOk) taken += chunk_bytes;
  return taken;
}

TEST(HttpStream, Chunks_ArriveAsTheyAreWritten) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  EXPECT_EQ(responder->Write("early"), WriteResult::kClosed);
  EXPECT_TRUE(responder->StartStream({.headers = {{"Content-Type", "text/event-stream"}}}));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_EQ(responder->Write(SseData("one")), WriteResult::kOk);
  EXPECT_THAT(client.ReadUntil("one\n\n"), HasSubstr("b\r\ndata: one\n\n"));
  EXPECT_EQ(responder->Write(""), WriteResult::kOk);  // Must not end the body.
  EXPECT_EQ(responder->Write("two"), WriteResult::kOk);
  EXPECT_TRUE(responder->Finish());
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr("3\r\ntwo\r\n0\r\n\r\n"));
  EXPECT_EQ(responder->Write("late"), WriteResult::kClosed);
  EXPECT_FALSE(responder->Finish());
  client.Send(kGet);  // The connection is kept.
  holder.Take()->Send(TextResponse(200, "again"));
  EXPECT_THAT(client.ReadUntil("again"), HasSubstr("200 OK"));
  EXPECT_EQ(holder.disconnects(), 0);
}

TEST(HttpStream, Http10AndHead_GetTheirFraming) {
  const auto server = StartServer({}, [](Request, ResponderPtr responder) {
    responder->StartStream({});
    responder->Write("content");
    responder->Finish();
  });
  RawClient old(server->port());
  old.Send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const std::string answer = old.ReadAll();
  EXPECT_THAT(answer, Not(HasSubstr("chunked")));
  EXPECT_TRUE(answer.ends_with("\r\n\r\ncontent")) << answer;
  RawClient head(server->port());
  head.Send("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string no_body = head.ReadAll();
  EXPECT_THAT(no_body, HasSubstr("chunked"));
  EXPECT_TRUE(no_body.ends_with("\r\n\r\n")) << no_body;
  EXPECT_THAT(no_body, Not(HasSubstr("content")));
}

TEST(HttpStream, SlowReader_MeetsBoundThenDrains) {
  Holder holder;
  const size_t bound = 256 << 10;
  const auto server = StartServer({.max_stream_buffer_bytes = bound}, holder.handler());
  RawClient client(server->port(), 4096);
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  responder->StartStream({});
  // What the system buffers is unknown, but bounded; the rest waits in the server up to its bound.
  size_t taken = 0;
  const std::string chunk(8 << 10, 'c');
  for (int quiet = 0; quiet < 20;) {
    if (responder->Write(chunk) == WriteResult::kOk) {
      taken += chunk.size();
      quiet = 0;
    } else {
      ++quiet;
      ::usleep(5000);
    }
    ASSERT_LT(taken, size_t{64} << 20);
  }
  Event drained;
  responder->OnDrained([&] { drained.Set(); });
  ::usleep(20'000);
  EXPECT_FALSE(drained.is_set());
  std::thread reader([&] { client.ReadUntil("the end"); });
  EXPECT_TRUE(drained.Wait());
  EXPECT_EQ(responder->Write("the end"), WriteResult::kOk);
  responder->Finish();
  reader.join();
  Event at_once;
  responder->OnDrained([&] { at_once.Set(); });
  EXPECT_TRUE(at_once.Wait());
  EXPECT_EQ(holder.disconnects(), 0);
}

TEST(HttpStream, ProducerDrivenByOnDrained_DeliversEverything) {
  // Chunks of more than half the bound: each refusal has to wait for real room, without spinning.
  struct Producer : std::enable_shared_from_this<Producer> {
    ResponderPtr responder;
    int next = 0;
    std::atomic<int> refusals{0};
    void Run() {
      while (next < 100) {
        const WriteResult result =
            responder->Write(std::string(40'000, static_cast<char>('a' + next % 26)));
        if (result == WriteResult::kFull) {
          ++refusals;
          responder->OnDrained([self = shared_from_this()] { self->Run(); });
          return;
        }
        if (result == WriteResult::kClosed) return;
        ++next;
      }
      responder->Finish();
      responder.reset();
    }
  };
  const auto producer = std::make_shared<Producer>();
  const auto server =
      StartServer({.max_stream_buffer_bytes = 64 << 10}, [&](Request, ResponderPtr responder) {
        responder->StartStream({});
        producer->responder = std::move(responder);
        producer->Run();
      });
  HttpClient client({.port = server->port()});
  const auto response = client.Get("/");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body.size(), 4'000'000u);
  EXPECT_GT(producer->refusals, 0);
  EXPECT_LE(producer->refusals, 200);
}

TEST(HttpStream, ReaderThatStops_IsCutByWriteTimeout) {
  Holder holder;
  const auto server = StartServer({.write_timeout = milliseconds(150)}, holder.handler());
  RawClient client(server->port(), 4096);
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  responder->StartStream({});
  while (!holder.disconnected().is_set()) {
    FillUp(*responder, 64 << 10, 64 << 20);
    ::usleep(2000);
  }
  EXPECT_EQ(responder->Write("x"), WriteResult::kClosed);
  EXPECT_TRUE(responder->disconnected());
  EXPECT_EQ(holder.disconnects(), 1);
  EXPECT_TRUE(BecomesEmpty(*server));
}

TEST(HttpStream, DroppedUnfinished_IsNotAWholeAnswer) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  for (const char* version : {"HTTP/1.1", "HTTP/1.0"}) {
    RawClient client(server->port());
    client.Send("GET / " + std::string(version) + "\r\nHost: x\r\n\r\n");
    {
      const ResponderPtr responder = holder.Take();
      responder->StartStream({});
      responder->Write("half");
      if (std::string_view(version) == "HTTP/1.0") client.ReadUntil("half");
    }
    const std::string all = client.ReadAll();
    EXPECT_THAT(all, Not(HasSubstr("0\r\n\r\n")));
    EXPECT_THAT(all, Not(HasSubstr("<timeout>")));
    if (std::string_view(version) == "HTTP/1.0") {
      EXPECT_THAT(all, HasSubstr("<reset>"));
    }
  }
  EXPECT_TRUE(BecomesEmpty(*server));
}

TEST(HttpStream, Heartbeat_FillsSilence) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  responder->StartStream(
      {.heartbeat = SseComment("alive"), .heartbeat_interval = milliseconds(10)});
  EXPECT_THAT(client.ReadUntil("alive"), HasSubstr(": alive\n\n"));
  EXPECT_THAT(client.ReadUntil("alive"), HasSubstr(": alive\n\n"));
  responder->Finish();
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr("0\r\n\r\n"));
  client.Send(kGet);
  holder.Take()->Send(TextResponse(200, "no heartbeat here"));
  EXPECT_THAT(client.ReadUntil("no heartbeat here"), Not(HasSubstr("alive")));
}

TEST(HttpDisconnect, WhileComputing_IsToldOnce) {
  for (const bool reset : {false, true}) {
    Holder holder;
    const auto server = StartServer({}, holder.handler());
    RawClient client(server->port());
    client.Send(kGet);
    const ResponderPtr responder = holder.Take();
    EXPECT_FALSE(responder->disconnected());
    if (reset) client.ResetOnClose();
    client.Close();
    EXPECT_TRUE(holder.disconnected().Wait()) << "reset " << reset;
    EXPECT_TRUE(responder->disconnected());
    EXPECT_FALSE(responder->Send(TextResponse(200, "too late")));
    Event late;
    responder->OnDisconnect([&] { late.Set(); });
    EXPECT_TRUE(late.is_set());
    EXPECT_EQ(holder.disconnects(), 1);
    EXPECT_TRUE(BecomesEmpty(*server));
  }
}

TEST(HttpDisconnect, WhileComputingWithPipelinedBytes_IsStillSeen) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  for (int i = 0; i < 100; ++i) client.Send(std::string(4096, 'p'));  // More than is kept.
  client.Close();
  EXPECT_TRUE(holder.disconnected().Wait());
}

TEST(HttpDisconnect, Http10Client_CountsAsGone) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send("GET / HTTP/1.0\r\n\r\n");
  const ResponderPtr responder = holder.Take();
  client.Close();
  EXPECT_TRUE(holder.disconnected().Wait());
}

TEST(HttpDisconnect, InStream_ShowsByHeartbeatOrWrite) {
  for (const bool heartbeat : {true, false}) {
    Holder holder;
    const auto server = StartServer({}, holder.handler());
    RawClient client(server->port());
    client.Send(kGet);
    const ResponderPtr responder = holder.Take();
    responder->StartStream({.heartbeat = heartbeat ? SseComment("") : ""});
    client.ReadUntil("\r\n\r\n");
    client.Close();
    if (!heartbeat) {
      for (int i = 0; i < 1000 && responder->Write("data") != WriteResult::kClosed; ++i)
        ::usleep(2000);
    }
    EXPECT_TRUE(holder.disconnected().Wait()) << "heartbeat " << heartbeat;
    EXPECT_EQ(responder->Write("x"), WriteResult::kClosed);
    EXPECT_EQ(holder.disconnects(), 1);
  }
}

TEST(HttpDisconnect, DrainWaiterIsReleased_WhenClientGoes) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port(), 4096);
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  responder->StartStream({});
  while (FillUp(*responder, 64 << 10, 64 << 20) > 0) ::usleep(20'000);
  Event released;
  responder->OnDrained([&] { released.Set(); });
  client.ResetOnClose();
  client.Close();
  EXPECT_TRUE(released.Wait());
  EXPECT_TRUE(holder.disconnected().Wait());
}

TEST(HttpHalfClose, ClientThatStillReads_GetsItsAnswer) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  client.ShutdownSend();
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ::usleep(50'000);
  EXPECT_EQ(holder.disconnects(), 0);
  EXPECT_TRUE(responder->Send(TextResponse(200, "answer")));
  EXPECT_TRUE(client.ReadAll().ends_with("answer"));
  EXPECT_EQ(holder.disconnects(), 0);
  EXPECT_TRUE(BecomesEmpty(*server));
}

TEST(HttpHalfClose, PipelinedThenHalfClosed_AllAreAnswered) {
  const auto server = StartServer({}, [](Request request, ResponderPtr responder) {
    responder->Send(TextResponse(200, "body of " + request.path));
  });
  RawClient client(server->port());
  client.Send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
  client.ShutdownSend();
  const std::string all = client.ReadAll();
  EXPECT_THAT(all, HasSubstr("body of /1"));
  EXPECT_TRUE(all.ends_with("body of /2")) << all;
}

TEST(HttpStop, ActiveStream_EndsWithinGrace) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient idle(server->port());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  responder->StartStream({});
  std::thread stopper([&] { server->Stop(std::chrono::seconds(30)); });
  EXPECT_EQ(idle.ReadAll(), "");  // Closed at once.
  EXPECT_EQ(responder->Write("still here"), WriteResult::kOk);
  EXPECT_TRUE(responder->Finish());
  stopper.join();
  EXPECT_THAT(client.ReadAll(), HasSubstr("a\r\nstill here\r\n0\r\n\r\n"));
  EXPECT_EQ(holder.disconnects(), 0);
  RawClient refused(server->port());
  EXPECT_FALSE(refused.connected());
  server->Stop(milliseconds(0));
}

TEST(HttpStop, ActiveStreams_AreCutAtTheDeadline) {
  std::mutex mutex;
  std::vector<ResponderPtr> streams;
  std::atomic<int> disconnects{0};
  const auto server = StartServer({}, [&](Request, ResponderPtr responder) {
    responder->OnDisconnect([&] { ++disconnects; });
    responder->StartStream({});
    std::lock_guard lock(mutex);
    streams.push_back(std::move(responder));
  });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<RawClient>(server->port()));
    clients.back()->Send(kGet);
    clients.back()->ReadUntil("\r\n\r\n");
  }
  server->Stop(milliseconds(100));
  EXPECT_EQ(disconnects, 8);
  EXPECT_EQ(server->num_connections(), 0u);
  for (const auto& client : clients) EXPECT_THAT(client->ReadAll(), Not(HasSubstr("<timeout>")));
  for (const ResponderPtr& stream : streams) EXPECT_EQ(stream->Write("x"), WriteResult::kClosed);
}

TEST(HttpStop, SecondStop_ShortensTheFirst) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  std::thread patient([&] { server->Stop(std::chrono::hours(1)); });
  ::usleep(20'000);
  server->Stop(milliseconds(0));
  patient.join();
  EXPECT_EQ(holder.disconnects(), 1);
}

TEST(HttpStop, RequestInProgress_GetsConnectionClose) {
  Holder holder;
  const auto server = StartServer({}, holder.handler());
  RawClient client(server->port());
  client.Send(kGet);
  const ResponderPtr responder = holder.Take();
  std::thread stopper([&] { server->Stop(std::chrono::seconds(30)); });
  RawClient probe(server->port());
  ::usleep(50'000);
  responder->Send(TextResponse(200, "last words"));
  const std::string answer = client.ReadAll();
  stopper.join();
  EXPECT_THAT(answer, HasSubstr("Connection: close\r\n"));
  EXPECT_TRUE(answer.ends_with("last words"));
}

TEST(HttpStop, ResponderOutlivingServer_IsHarmless) {
  Holder holder;
  ResponderPtr responder;
  {
    const auto server = StartServer({}, holder.handler());
    RawClient client(server->port());
    client.Send(kGet);
    responder = holder.Take();
  }
  EXPECT_TRUE(responder->disconnected());
  EXPECT_FALSE(responder->Send(TextResponse(200, "x")));
  Event drained;
  responder->OnDrained([&] { drained.Set(); });
  EXPECT_TRUE(drained.is_set());
  responder.reset();
}

TEST(HttpStop, ManyCycles_LeakNoDescriptor) {
  const auto count_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto cycle = [](int i) {
    Holder holder;
    const auto server = StartServer({}, holder.handler());
    RawClient one(server->port());
    RawClient two(server->port());
    one.Send(kGet);
    const ResponderPtr responder = holder.Take();
    if (i % 2 == 0) responder->Send(TextResponse(200, "x"));
    if (i % 3 == 0) server->Stop(milliseconds(i % 4));
  };
  cycle(0);
  const auto before = count_descriptors();
  for (int i = 0; i < 40; ++i) cycle(i);
  EXPECT_EQ(count_descriptors(), before);
}

TEST(HttpStop, WritersOnManyThreads_RaceWithClientsAndStop) {
  // No outcome is promised but that everything ends; sanitizers watch the rest.
  std::mutex mutex;
  std::vector<std::thread> writers;
  std::atomic<int> disconnects{0};
  const auto server =
      StartServer({.max_stream_buffer_bytes = 4096}, [&](Request, ResponderPtr responder) {
        responder->OnDisconnect([&] { ++disconnects; });
        std::lock_guard lock(mutex);
        writers.emplace_back([responder = std::move(responder)] {
          responder->StartStream({.heartbeat = ": \n\n", .heartbeat_interval = milliseconds(1)});
          while (responder->Write("some bytes of a stream") != WriteResult::kClosed) ::usleep(100);
        });
      });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 12; ++i) {
    clients.push_back(std::make_unique<RawClient>(server->port()));
    clients.back()->Send(kGet);
    clients.back()->ReadUntil("stream");
    if (i % 3 == 0) clients.back()->Close();
  }
  server->Stop(milliseconds(20));
  std::lock_guard lock(mutex);
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(disconnects, 12);
}

}  // namespace
}  // namespace halfmoon::net
