// SPDX-License-Identifier: Apache-2.0
#include "net/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "net/http_server.h"
#include "net/raw_client.h"
#include "net/sse.h"

namespace halfmoon::net {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

using ResponderPtr = std::shared_ptr<Responder>;

std::unique_ptr<HttpServer> StartServer(HttpHandler handler, HttpServerOptions options = {}) {
  auto server = HttpServer::Start(std::move(options), std::move(handler));
  EXPECT_TRUE(server.ok()) << (server.ok() ? "" : server.error().message());
  return std::move(server).value();
}

void Hello(Request request, ResponderPtr responder) {
  responder->Send(TextResponse(200, "hello " + request.path));
}

/// Binds a socket to a free port of 127.0.0.1 and listens; returns the port.
uint16_t Listen(int listener) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(listener, 4), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

// Answers one connection with fixed bytes, then closes.
class CannedServer {
 public:
  explicit CannedServer(std::string bytes) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    port_ = Listen(listener_);
    thread_ = std::thread([this, bytes = std::move(bytes)] {
      const int peer = ::accept(listener_, nullptr, nullptr);
      if (peer < 0) return;
      std::array<char, 4096> request;
      EXPECT_GT(::recv(peer, request.data(), request.size(), 0), 0);
      EXPECT_EQ(::send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(bytes.size()));
      ::close(peer);
    });
  }
  CannedServer(const CannedServer&) = delete;
  CannedServer& operator=(const CannedServer&) = delete;
  ~CannedServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  uint16_t port() const { return port_; }

 private:
  const int listener_;
  uint16_t port_ = 0;
  std::thread thread_;
};

TEST(ParseUrl, GoodAndBad_Urls) {
  std::string target;
  const auto plain = ParseUrl("http://localhost:8080/v1?a=b#c", &target);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->host, "localhost");
  EXPECT_EQ(plain->port, 8080);
  EXPECT_EQ(target, "/v1?a=b");
  const auto secure = ParseUrl("HTTPS://[::1]", &target);
  ASSERT_TRUE(secure.ok());
  EXPECT_EQ(secure->host, "[::1]");
  EXPECT_EQ(secure->port, 443);
  EXPECT_TRUE(secure->tls);
  EXPECT_EQ(target, "/");
  ASSERT_TRUE(ParseUrl("http://h?q=1", &target).ok());
  EXPECT_EQ(target, "/?q=1");
  for (const char* bad : {"", "ftp://h", "http://", "http://h:0", "http://h:x", "http://h:70000",
                          "http://u@h/", "http://a b/", "http://h\r\nX: y/"}) {
    EXPECT_FALSE(ParseUrl(bad).ok()) << bad;
  }
}

TEST(HttpClient, KeptConnection_IsReusedAndReopened) {
  const auto server = StartServer(Hello, {.idle_timeout = milliseconds(50)});
  HttpClient client({.port = server->port()});
  EXPECT_EQ(client.Get("/1")->body, "hello /1");
  EXPECT_EQ(client.Get("/2")->body, "hello /2");
  EXPECT_EQ(server->num_connections(), 1u);
  ::usleep(150'000);  // The server closes it meanwhile.
  const auto again = client.PostJson("/3", "{}");
  ASSERT_TRUE(again.ok()) << again.error().message();
  EXPECT_EQ(again->body, "hello /3");
}

TEST(HttpClient, NameInsteadOfAddress_IsLookedUp) {
  const auto server = StartServer(Hello);
  HttpClient client({.host = "localhost", .port = server->port()});
  const auto response = client.Get("/");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->status, 200);
}

TEST(HttpClient, NobodyListening_IsUnavailable) {
  uint16_t port = 0;
  {
    port = StartServer(Hello)->port();
  }
  HttpClient client({.port = port});
  const auto response = client.Get("/");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(response.error().message(), HasSubstr(std::to_string(port)));
}

TEST(HttpClient, SilentServer_TimesOut) {
  std::mutex mutex;
  ResponderPtr held;
  const auto server = StartServer([&](Request, ResponderPtr responder) {
    std::lock_guard lock(mutex);
    held = std::move(responder);
  });
  HttpClient client({.port = server->port(), .read_timeout = milliseconds(50)});
  const auto response = client.Get("/");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code(), ErrorCode::kDeadlineExceeded);
  std::lock_guard lock(mutex);
  held.reset();
}

TEST(HttpClient, Streaming_HandsOutPiecesAndStopsOnFalse) {
  Event gone;
  const auto server = StartServer([&](Request request, ResponderPtr responder) {
    responder->OnDisconnect([&] { gone.Set(); });
    responder->StartStream({.headers = {{"Content-Type", "text/event-stream"}},
                            .heartbeat = SseComment(""),
                            .heartbeat_interval = milliseconds(5)});
    for (int i = 0; i < 3; ++i) responder->Write(SseData(std::to_string(i)));
    if (request.path == "/end") {
      responder->Finish();
    } else {
      // Held by its own callback until the client goes away.
      responder->OnDisconnect([&gone, responder] { gone.Set(); });
    }
  });
  HttpClient client({.port = server->port()});
  std::vector<std::string> events;
  SseParser parser([&](const SseMessage& message) { events.push_back(message.data); });
  int status_seen = 0;
  const auto whole = client.SendStreaming(
      {.target = "/end"}, [&](std::string_view piece) { return parser.Feed(piece).ok(); },
      [&](const Response& head) { status_seen = head.status; });
  ASSERT_TRUE(whole.ok()) << whole.error().message();
  EXPECT_EQ(status_seen, 200);
  EXPECT_EQ(whole->body, "");
  EXPECT_EQ(events, (std::vector<std::string>{"0", "1", "2"}));
  const auto stopped =
      client.SendStreaming({.target = "/endless"}, [](std::string_view) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code(), ErrorCode::kCancelled);
  EXPECT_TRUE(gone.Wait());
}

TEST(HttpClient, CancelFromAnotherThread_EndsTheRequest) {
  std::mutex mutex;
  ResponderPtr held;
  Event arrived;
  const auto server = StartServer([&](Request, ResponderPtr responder) {
    std::lock_guard lock(mutex);
    held = std::move(responder);
    arrived.Set();
  });
  HttpClient client({.port = server->port()});
  std::thread canceller([&] {
    EXPECT_TRUE(arrived.Wait());
    client.Cancel();
  });
  const auto response = client.Get("/");
  canceller.join();
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code(), ErrorCode::kCancelled);
  std::lock_guard lock(mutex);
  held.reset();
}

TEST(HttpClient, RaisedFlag_EndsAWaitingRequest) {
  std::mutex mutex;
  ResponderPtr held;
  const auto server = StartServer([&](Request, ResponderPtr responder) {
    std::lock_guard lock(mutex);
    held = std::move(responder);
  });
  int asked = 0;
  HttpClient client({.port = server->port(), .interrupted = [&] { return ++asked > 5; }});
  const auto response = client.Get("/");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code(), ErrorCode::kCancelled);
  std::lock_guard lock(mutex);
  held.reset();
}

TEST(HttpClient, BrokenAnswers_AreErrors) {
  const auto code_of = [](std::string bytes, HttpClientOptions options = {}) {
    const CannedServer server(std::move(bytes));
    options.port = server.port();
    HttpClient client(options);
    const auto response = client.Send({.method = "POST", .target = "/"});
    EXPECT_FALSE(response.ok());
    return response.ok() ? ErrorCode::kInternal : response.error().code();
  };
  EXPECT_EQ(code_of("SSH-2.0-x\r\n\r\n"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_of("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"), ErrorCode::kCorrupt);
  EXPECT_EQ(code_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            ErrorCode::kCorrupt);
  EXPECT_EQ(code_of("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", {.max_body_bytes = 10}),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(code_of("HTTP/1.1 200 OK\r\n\r\n" + std::string(50, 'x'), {.max_body_bytes = 10}),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(code_of(""), ErrorCode::kUnavailable);
}

TEST(HttpClient, MalformedRequests_AreRefusedBeforeSending) {
  HttpClient client({.port = 1});
  for (const ClientRequest& bad :
       {ClientRequest{.target = "/a b"}, ClientRequest{.target = ""},
        ClientRequest{.method = "G ET"}, ClientRequest{.headers = {{"A", "b\r\nC: d"}}}}) {
    const auto response = client.Send(bad);
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.error().code(), ErrorCode::kInvalidArgument);
  }
}

// A self-signed certificate for localhost, made for this run.
class TlsFiles {
 public:
  TlsFiles() {
    folder_ = std::filesystem::temp_directory_path() /
              ("halfmoon_tls_test_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME* name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_EXTENSION* names =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
    X509_add_ext(certificate, names, -1);
    X509_sign(certificate, key, EVP_sha256());
    std::FILE* file = std::fopen(certificate_file().c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    file = std::fopen(key_file().c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
    X509_EXTENSION_free(names);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  TlsFiles(const TlsFiles&) = delete;
  TlsFiles& operator=(const TlsFiles&) = delete;
  ~TlsFiles() { std::filesystem::remove_all(folder_); }

  std::string certificate_file() const { return folder_ / "certificate.pem"; }
  std::string key_file() const { return folder_ / "key.pem"; }

 private:
  std::filesystem::path folder_;
};

TEST(HttpTls, VerifiedConnection_ServesAndStreams) {
  const TlsFiles files;
  Event gone;
  const auto server = StartServer(
      [&](Request request, ResponderPtr responder) {
        if (request.path == "/hold") {
          responder->OnDisconnect([&gone, responder] { gone.Set(); });
          return;
        }
        responder->StartStream({});
        for (int i = 0; i < 50; ++i) {
          EXPECT_EQ(responder->Write(std::string(10'000, 't')), WriteResult::kOk);
        }
        responder->Finish();
      },
      {.tls_certificate_file = files.certificate_file(), .tls_key_file = files.key_file()});
  EXPECT_THAT(server->url(), HasSubstr("https://"));
  HttpClientOptions options = {.host = "localhost",
                               .port = server->port(),
                               .tls = true,
                               .tls_ca_file = files.certificate_file()};
  HttpClient client(options);
  for (int i = 0; i < 3; ++i) {
    const auto response = client.Send({.method = "POST", .body = std::string(1 << 20, 'b')});
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->body.size(), 500'000u);
  }
  EXPECT_EQ(server->num_connections(), 1u);
  // A client that goes away is noticed as without TLS.
  options.read_timeout = milliseconds(50);
  HttpClient impatient(options);
  EXPECT_EQ(impatient.Get("/hold").error().code(), ErrorCode::kDeadlineExceeded);
  EXPECT_TRUE(gone.Wait());
  client.Close();
  server->Stop(milliseconds(5000));
}

TEST(HttpTls, Distrust_IsAnError) {
  const TlsFiles files;
  const auto server = StartServer(Hello, {.header_timeout = milliseconds(300),
                                          .tls_certificate_file = files.certificate_file(),
                                          .tls_key_file = files.key_file()});
  HttpClient unknown_root({.host = "localhost", .port = server->port(), .tls = true});
  EXPECT_EQ(unknown_root.Get("/").error().code(), ErrorCode::kUnavailable);
  HttpClient wrong_name({.host = "127.0.0.1",
                         .port = server->port(),
                         .tls = true,
                         .tls_ca_file = files.certificate_file()});
  EXPECT_EQ(wrong_name.Get("/").error().code(), ErrorCode::kUnavailable);
  HttpClient trusting({.port = server->port(), .tls = true, .tls_verify = false});
  EXPECT_EQ(trusting.Get("/x")->body, "hello /x");
  HttpClient bad_roots({.port = server->port(), .tls = true, .tls_ca_file = "absent.pem"});
  EXPECT_EQ(bad_roots.Get("/").error().code(), ErrorCode::kInvalidArgument);
  // Plain HTTP to a TLS port, and a client that never begins the handshake, are both cut.
  HttpClient plain({.port = server->port()});
  EXPECT_FALSE(plain.Get("/").ok());
  RawClient silent(server->port());
  EXPECT_EQ(silent.ReadAll(), "");
}

// A proxy for one connection: answers its first request, and where `tunnel_to` is a port carries
// bytes between client and that port from then on.
class OneProxy {
 public:
  OneProxy(std::string answer, uint16_t tunnel_to)
      : listener_(::socket(AF_INET, SOCK_STREAM, 0)), answer_(std::move(answer)) {
    port_ = Listen(listener_);
    thread_ = std::thread([this, tunnel_to] { Serve(tunnel_to); });
  }
  OneProxy(const OneProxy&) = delete;
  OneProxy& operator=(const OneProxy&) = delete;
  ~OneProxy() {
    Join();
    ::close(listener_);
  }
  uint16_t port() const { return port_; }
  /// What the client sent first. Ends the proxy.
  const std::string& first_request() {
    Join();
    return head_;
  }

 private:
  void Join() {
    ::shutdown(listener_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }

  void Serve(uint16_t tunnel_to) {
    const int client = ::accept(listener_, nullptr, nullptr);
    if (client < 0) return;
    std::array<char, 4096> piece;
    while (head_.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = ::recv(client, piece.data(), piece.size(), 0);
      if (got <= 0) break;
      head_.append(piece.data(), static_cast<size_t>(got));
    }
    ::send(client, answer_.data(), answer_.size(), MSG_NOSIGNAL);
    if (tunnel_to != 0) Carry(client, tunnel_to);
    ::close(client);
  }

  static void Carry(int client, uint16_t port) {
    const int server = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(server, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::array<int, 2> ends = {client, server};
    for (bool open = true; open;) {
      std::array<pollfd, 2> state = {pollfd{.fd = client, .events = POLLIN, .revents = 0},
                                     pollfd{.fd = server, .events = POLLIN, .revents = 0}};
      if (::poll(state.data(), state.size(), 10'000) <= 0) break;
      for (size_t i = 0; i < ends.size(); ++i) {
        if (state[i].revents == 0) continue;
        std::array<char, 4096> piece;
        const ssize_t got = ::recv(ends[i], piece.data(), piece.size(), 0);
        if (got <= 0) open = false;
        if (got > 0) ::send(ends[1 - i], piece.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
      }
    }
    ::close(server);
  }

  const int listener_;
  const std::string answer_;
  uint16_t port_ = 0;
  std::string head_;
  std::thread thread_;
};

TEST(HttpProxy, PlainRequest_NamesTheWholeUrlAndTheHostWithoutItsDefaultPort) {
  OneProxy proxy("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0);
  HttpClient client({.host = "hub.example",
                     .proxy_host = "127.0.0.1",
                     .proxy_port = proxy.port(),
                     .proxy_authorization = "Basic eA=="});
  const auto response = client.Get("/a?b=c");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "ok");
  EXPECT_THAT(proxy.first_request(),
              ::testing::StartsWith("GET http://hub.example/a?b=c HTTP/1.1\r\n"));
  EXPECT_THAT(proxy.first_request(), HasSubstr("\r\nHost: hub.example\r\n"));
  EXPECT_THAT(proxy.first_request(), HasSubstr("\r\nProxy-Authorization: Basic eA==\r\n"));
}

TEST(HttpProxy, Tls_RunsThroughATunnel) {
  const TlsFiles files;
  const auto server = StartServer(
      Hello, {.tls_certificate_file = files.certificate_file(), .tls_key_file = files.key_file()});
  OneProxy proxy("HTTP/1.1 200 Connection established\r\n\r\n", server->port());
  HttpClient client({.host = "localhost",
                     .port = server->port(),
                     .tls = true,
                     .tls_ca_file = files.certificate_file(),
                     .proxy_host = "127.0.0.1",
                     .proxy_port = proxy.port(),
                     .proxy_authorization = "Basic eA=="});
  for (int i = 0; i < 2; ++i) {
    const auto response = client.Get("/secret");
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_EQ(response->body, "hello /secret");
  }
  client.Close();
  const std::string authority = "localhost:" + std::to_string(server->port());
  EXPECT_EQ(proxy.first_request(), "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority +
                                       "\r\nProxy-Authorization: Basic eA==\r\n\r\n");
}

TEST(HttpProxy, TunnelThatIsRefusedOrBroken_IsAnErrorNamingTheProxy) {
  const auto error_of = [](std::string answer) {
    OneProxy proxy(std::move(answer), 0);
    HttpClient client({.host = "hub.example",
                       .port = 443,
                       .tls = true,
                       .proxy_host = "127.0.0.1",
                       .proxy_port = proxy.port()});
    const auto response = client.Get("/");
    EXPECT_FALSE(response.ok());
    if (response.ok()) return std::string();
    EXPECT_EQ(response.error().code(), ErrorCode::kUnavailable);
    EXPECT_THAT(response.error().message(), HasSubstr("through proxy 127.0.0.1 port"));
    return response.error().message();
  };
  EXPECT_THAT(error_of("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
              HasSubstr("status 407"));
  EXPECT_THAT(error_of(""), HasSubstr("closed"));
  EXPECT_THAT(error_of("SSH-2.0-x\r\n\r\n"), HasSubstr("the proxy"));
  EXPECT_THAT(error_of("HTTP/1.1 200 OK\r\n\r\nmore"), HasSubstr("more than its answer"));
}

TEST(HttpTls, KeyOfAnotherCertificate_IsAClearError) {
  const TlsFiles files;
  const auto server = HttpServer::Start(
      {.tls_certificate_file = files.certificate_file(), .tls_key_file = files.certificate_file()},
      Hello);
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(server.error().message(), HasSubstr("certificate.pem"));
}

}  // namespace
}  // namespace halfmoon::net
