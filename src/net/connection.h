// SPDX-License-Identifier: Apache-2.0
// Internal to net: one client's connection to the server, as a state machine.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "net/asio.h"
#include "net/exchange.h"
#include "net/http_server.h"
#include "net/message_parser.h"
#include "net/transport.h"

namespace halfmoon::net {

class Connection;

/// What all connections of a server share. Immutable but for `stopping`.
struct ConnectionContext {
  std::shared_ptr<const HttpServerOptions> options;
  HttpHandler handler;
  /// Called once by each connection, on its strand, when it has closed.
  std::function<void(Connection*)> on_closed;
  std::atomic<bool> stopping{false};
};

/// What a new connection is for.
enum class Admission {
  kServe,
  kRefuse,  ///< The server is full: answer 503 and close.
};

/// Reads one request at a time, hands it to the handler, writes the answer. A read is pending all
/// the time, also while the handler works, because that is how a client that goes away is noticed.
///
/// Everything runs on the strand of the transport's socket, except for Start, BeginStop and Cut,
/// which may be called from any thread. Whoever waits for an operation holds a shared_ptr, so the
/// object lives until its last operation has ended.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::unique_ptr<Transport> transport, std::shared_ptr<const ConnectionContext> context,
             std::string peer, Admission admission);

  void Start();
  /// The server stops: an idle connection closes, one with a request in progress does after the
  /// response.
  void BeginStop();
  /// Closes, whatever is going on.
  void Cut();

 private:
  enum class Phase {
    kHandshake,
    kIdle,  // Waiting for the first byte of a request.
    kReadHead,
    kReadBody,
    kHandling,  // The handler has the request; the response may be on its way.
    kFailing,   // Writing the server's own answer, then closing.
    kLinger,    // Everything is written; waiting for the client to close.
    kClosed,
  };

  const HttpServerOptions& options() const { return *context_->options; }

  void OnHandshake(const error_code& error);
  void Read();
  void OnRead(const error_code& error, size_t count);
  void OnReadEnd(const error_code& error);
  void Advance();
  void EnterReading(Phase phase, std::chrono::milliseconds timeout);
  void KeepPipelined(std::string_view bytes);

  void Dispatch();
  void WatchHalfClosed();
  void ScheduleHeartbeat();
  void Fail(int status, std::string_view message);

  void Pump();
  bool RefillOutput();
  void OnWritten(const error_code& error, size_t count);
  void EndExchange();

  void OnReadTimeout();
  void Linger();
  void Close();

  void Arm(asio::steady_timer& timer, std::chrono::milliseconds delay,
           void (Connection::*expired)());

  void Disarm(asio::steady_timer& timer);

  const std::unique_ptr<Transport> transport_;
  const std::shared_ptr<const ConnectionContext> context_;
  const std::string peer_;
  const Admission admission_;

  Phase phase_ = Phase::kHandshake;
  RequestParser parser_;
  std::shared_ptr<Exchange> exchange_;  // In kHandling only.

  bool reading_ = false;
  bool read_ended_ = false;   // The client ended its sending side.
  bool close_after_ = false;  // No further request after this response.
  bool first_request_ = true;
  std::array<char, 16 << 10> read_buffer_;

  bool writing_ = false;
  std::string own_output_;  // The server's own bytes, before those of the exchange.
  std::string output_;      // Being written, from output_begin_ on.
  size_t output_begin_ = 0;
  bool output_of_exchange_ = false;
  Exchange::Progress progress_ = Exchange::Progress::kMore;

  asio::steady_timer read_timer_;
  asio::steady_timer write_timer_;
  asio::steady_timer heartbeat_timer_;
  bool heartbeat_armed_ = false;
};

}  // namespace halfmoon::net
