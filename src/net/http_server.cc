// SPDX-License-Identifier: Apache-2.0
#include "net/http_server.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "net/connection.h"
#include "net/io_pool.h"
#include "net/listen.h"

namespace halfmoon::net {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Connections above the limit that get their 503 at the same time; beyond them a connection is just
// closed.
constexpr size_t kMaxRefusing = 64;
// How long to wait after accept failed, as it does when the process has no file descriptor left.
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::chrono::milliseconds kMaxGrace = std::chrono::hours(24);

using IdleOption = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPIDLE>;
using IntervalOption = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPINTVL>;
using CountOption = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPCNT>;

// A client whose machine or network vanished sends nothing at all; probes find that out within a
// minute, so that its request does not compute to the end.
void SetSocketOptions(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  socket.set_option(IdleOption(30), ignored);
  socket.set_option(IntervalOption(10), ignored);
  socket.set_option(CountOption(3), ignored);
}

Status CheckOptions(const HttpServerOptions& options, const HttpHandler& handler) {
  const auto invalid = [](std::string message) {
    return Error(ErrorCode::kInvalidArgument, "HTTP server: " + std::move(message));
  };
  if (!handler) return invalid("no handler");
  if (!options.error_body) return invalid("no error_body");
  if (options.io_threads < 1 || options.io_threads > 256) {
    return invalid("io_threads is " + std::to_string(options.io_threads) + ", not 1 to 256");
  }
  if (options.max_header_bytes < 256 || options.max_header_bytes > (64u << 20)) {
    return invalid("max_header_bytes is not 256 bytes to 64 MiB");
  }
  if (options.max_connections < 1) return invalid("max_connections is 0");
  if (options.max_stream_buffer_bytes < 1) return invalid("max_stream_buffer_bytes is 0");
  for (const auto timeout : {options.header_timeout, options.body_timeout, options.idle_timeout,
                             options.write_timeout}) {
    if (timeout.count() <= 0 || timeout > std::chrono::hours(24 * 365)) {
      return invalid("a timeout is not between 1 ms and a year");
    }
  }
  if (options.tls_certificate_file.empty() != options.tls_key_file.empty()) {
    return invalid("TLS needs both a certificate file and a key file");
  }
  return {};
}

}  // namespace

ErrorBody DefaultErrorBody(int status, std::string_view message) {
  const json::object body = {{"error", {{"message", message}, {"code", status}}}};
  return {"application/json", json::Serialize(body)};
}

class HttpServer::Impl {
 public:
  Impl(HttpServerOptions options, HttpHandler handler)
      : pool_(std::make_shared<IoPool>(options.io_threads)),
        timers_(pool_),
        context_(std::make_shared<ConnectionContext>()),
        acceptor_(asio::make_strand(pool_->context())),
        accept_timer_(acceptor_.get_executor()) {
    context_->options = std::make_shared<const HttpServerOptions>(std::move(options));
    context_->handler = std::move(handler);
    context_->on_closed = [this](Connection* connection) { OnClosed(connection); };
  }

  ~Impl() { Stop(std::chrono::milliseconds(0)); }

  Status Begin() {
    const HttpServerOptions& options = *context_->options;
    if (!options.tls_certificate_file.empty()) {
      HM_ASSIGN(tls_, MakeServerTls(options.tls_certificate_file, options.tls_key_file));
    }
    HM_ASSIGN(local_, Listen(acceptor_, pool_->context(), options.host, options.port));
    asio::post(acceptor_.get_executor(), [this] { Accept(); });
    return {};
  }

  uint16_t port() const { return local_.port(); }

  std::string url() const { return (tls_ ? "https://" : "http://") + EndpointText(local_); }

  size_t num_connections() {
    std::lock_guard lock(mutex_);
    return connections_.size();
  }

  TimerService& timers() { return timers_; }

  void Stop(std::chrono::milliseconds grace) {
    grace = std::clamp(grace, std::chrono::milliseconds(0), kMaxGrace);
    std::unique_lock lock(mutex_);
    const auto deadline = SteadyClock::now() + grace;
    if (!cut_at_ || deadline < *cut_at_) cut_at_ = deadline;
    if (!context_->stopping.exchange(true)) {
      asio::post(acceptor_.get_executor(), [this] {
        error_code ignored;
        acceptor_.close(ignored);
        accept_timer_.cancel();
      });
      for (const auto& [connection, weak] : connections_) {
        if (const auto alive = weak.lock()) alive->BeginStop();
      }
    }
    changed_.notify_all();  // A Stop that waits already sees the shorter deadline.
    while (!connections_.empty()) {
      if (SteadyClock::now() < *cut_at_) {
        changed_.wait_until(lock, *cut_at_);
        continue;
      }
      for (const auto& [connection, weak] : connections_) {
        if (const auto alive = weak.lock()) alive->Cut();
      }
      changed_.wait(lock, [this] { return connections_.empty(); });
    }
    lock.unlock();
    timers_.Shutdown();
    std::lock_guard join_lock(join_mutex_);
    pool_->Join();
  }

 private:
  // On the acceptor's strand.
  void Accept() {
    if (!acceptor_.is_open()) return;
    acceptor_.async_accept(asio::make_strand(pool_->context()),
                           [this](const error_code& error, tcp::socket socket) {
                             OnAccept(error, std::move(socket));
                           });
  }

  void OnAccept(const error_code& error, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    if (!error) {
      Admit(std::move(socket));
    } else if (error != asio::error::connection_aborted) {
      HM_LOG_WARN("net: accept failed: {}", error.message());
      accept_timer_.expires_after(kAcceptPause);
      accept_timer_.async_wait([this](const error_code&) { Accept(); });
      return;
    }
    Accept();
  }

  void Admit(tcp::socket socket) {
    error_code error;
    const tcp::endpoint peer = socket.remote_endpoint(error);
    if (error) return;  // Gone already.
    SetSocketOptions(socket);
    std::unique_ptr<Transport> transport;
    if (tls_) {
      auto made = MakeTlsTransport(std::move(socket), *tls_, TlsRole::kServer, "");
      if (!made.ok()) {
        HM_LOG_WARN("net: {}", made.error().message());
        return;
      }
      transport = std::move(made).value();
    } else {
      transport = MakePlainTransport(std::move(socket));
    }
    std::lock_guard lock(mutex_);
    const size_t limit = context_->options->max_connections;
    if (context_->stopping || connections_.size() >= limit + kMaxRefusing) return;
    const auto connection = std::make_shared<Connection>(
        std::move(transport), context_, EndpointText(peer),
        connections_.size() >= limit ? Admission::kRefuse : Admission::kServe);
    connections_.emplace(connection.get(), connection);
    connection->Start();
  }

  // On the connection's strand.
  void OnClosed(Connection* connection) {
    std::lock_guard lock(mutex_);
    connections_.erase(connection);
    changed_.notify_all();
  }

  const std::shared_ptr<IoPool> pool_;
  TimerService timers_;
  const std::shared_ptr<ConnectionContext> context_;
  std::shared_ptr<asio::ssl::context> tls_;
  tcp::acceptor acceptor_;           // On its strand, after Begin.
  asio::steady_timer accept_timer_;  // On the acceptor's strand.
  tcp::endpoint local_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<SteadyClock::time_point> cut_at_;                           // GUARDED_BY(mutex_)
  std::unordered_map<Connection*, std::weak_ptr<Connection>> connections_;  // GUARDED_BY(mutex_)
  std::mutex join_mutex_;
};

Result<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options,
                                                      HttpHandler handler) {
  HM_TRY(CheckOptions(options, handler));
  try {
    auto impl = std::make_unique<Impl>(std::move(options), std::move(handler));
    HM_TRY(impl->Begin());
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& e) {
    return Error(ErrorCode::kIo, std::string("HTTP server: ") + e.what());
  }
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port(); }
std::string HttpServer::url() const { return impl_->url(); }
size_t HttpServer::num_connections() const { return impl_->num_connections(); }
TimerService& HttpServer::timers() { return impl_->timers(); }
void HttpServer::Stop(std::chrono::milliseconds grace) { impl_->Stop(grace); }

}  // namespace halfmoon::net
