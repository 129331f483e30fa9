// SPDX-License-Identifier: Apache-2.0
// An HTTP/1.1 server (HTTP/1.0 clients too, TLS if asked) with bounds on everything a client
// controls.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"
#include "net/timer.h"

namespace halfmoon::net {

/// Body of an answer that the server itself gives.
struct ErrorBody {
  std::string content_type;
  std::string body;
};

/// {"error":{"message":"...","code":413}} as application/json.
ErrorBody DefaultErrorBody(int status, std::string_view message);

struct HttpServerOptions {
  /// Name or address to listen on; "0.0.0.0" or "::" for every interface.
  std::string host = "127.0.0.1";
  uint16_t port = 0;  ///< 0 lets the system choose; HttpServer::port() tells.
  int io_threads = 2;

  size_t max_header_bytes = 32 << 10;  ///< Request line and fields; above: 431.
  size_t max_body_bytes = 32 << 20;    ///< After decoding; above: 413.
  size_t max_connections = 1024;       ///< Above: 503 with Retry-After, then close.
  /// Written by the handler and not yet sent; above: kFull.
  size_t max_stream_buffer_bytes = 1 << 20;
  int retry_after_s = 1;  ///< Retry-After of the 503.

  /// First byte to end of head: 408. Also for the TLS handshake, and for the first byte of a new
  /// connection: closed.
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{60'000};  ///< End of head to end of body: 408.
  std::chrono::milliseconds idle_timeout{75'000};  ///< Between exchanges: closed without a word.
  /// For each piece of at most 64 KiB: a client that does not take it in time is cut.
  std::chrono::milliseconds write_timeout{30'000};

  /// PEM files; both or neither. With them the server speaks TLS (1.2 or later) only.
  std::string tls_certificate_file;  ///< Certificate chain, leaf first.
  std::string tls_key_file;

  std::string server_name = "halfmoon";  ///< The Server field; empty leaves it out.
  /// Body of the server's own answers: 400, 408, 413, 417, 431, 500, 501, 503, 505. Called on IO
  /// threads, and on the thread that drops a Responder unanswered.
  std::function<ErrorBody(int status, std::string_view message)> error_body = DefaultErrorBody;
};

enum class WriteResult {
  kOk,      ///< Taken.
  kFull,    ///< Not taken: the outgoing buffer is at its bound. OnDrained tells when to try again.
  kClosed,  ///< Not taken, and never will be: the client is gone, or the response has ended.
};

/// The head of a streamed response, and what keeps it alive while the handler has nothing to say.
struct StreamHead {
  int status = 200;
  Headers headers;
  /// Bytes that mean nothing to the reader of this stream, for example an SSE comment. Sent when
  /// the stream was silent for one to two `heartbeat_interval`s, and once when the client ends its
  /// own sending side: a client that is gone answers them with a reset. Empty: never sent.
  std::string heartbeat;
  std::chrono::milliseconds heartbeat_interval{0};  ///< 0: only the second use.
};

/// Where the answer to one request goes. Thread-safe; usable from any thread, also after the server
/// is gone.
///
/// Dropping the last reference unanswered sends a 500. Dropping it in the middle of a stream cuts
/// the connection, so that the client does not take half an answer for a whole one. Callbacks given
/// here are released when the exchange ends; one that holds this Responder keeps it from being
/// dropped until then. Callbacks run on an IO thread, must return quickly, and must not be given
/// while holding a lock they take.
class Responder {
 public:
  virtual ~Responder() = default;

  /// Answers with a whole response. False where the client is gone or an answer was begun before.
  virtual bool Send(Response response) = 0;

  /// Begins a streamed answer: chunked for HTTP/1.1, until close for HTTP/1.0. False as for Send.
  virtual bool StartStream(StreamHead head) = 0;

  /// Adds bytes to the stream; they are copied. A chunk larger than the bound is taken while
  /// nothing else waits. After kFull nothing was taken. kClosed where no stream was begun.
  virtual WriteResult Write(std::string_view chunk) = 0;

  /// Ends the stream. False where there is none, or the client is gone.
  virtual bool Finish() = 0;

  /// Runs `callback` once: when half of the outgoing bound is free, and room enough for the chunk
  /// that was refused last (at once, on the calling thread, if so already), or when the exchange
  /// has ended. A later call replaces a callback that has not run.
  virtual void OnDrained(std::function<void()> callback) = 0;

  /// Runs `callback` exactly once if the connection is lost before the response was handed to the
  /// operating system completely: the client went away (also while the request waits or computes),
  /// was too slow and cut, or the server stopped. At once, on the calling thread, if that has
  /// happened. A later call replaces a callback that has not run.
  virtual void OnDisconnect(std::function<void()> callback) = 0;

  /// True once the connection is lost before the response was complete.
  virtual bool disconnected() const = 0;
};

/// Called on an IO thread for each complete request; must return quickly and hand work elsewhere. A
/// thrown exception is logged and answered with 500.
using HttpHandler = std::function<void(Request, std::shared_ptr<Responder>)>;

/// The server. Thread-safe. Connections are state machines on a few IO threads, one request at a
/// time each; pipelined requests wait (up to max_header_bytes + 64 KiB of them; with more, the
/// connection closes after the current response).
///
/// When a client ends its sending side after the request, it may be gone or may still listen; TCP
/// shows the same in both cases. The server then sends something harmless, an interim "100
/// Continue" before the response has begun or the stream's heartbeat later: a client that is gone
/// answers with a reset and counts as disconnected, one that listens gets its response, and the
/// connection closes after it. Where nothing harmless exists (HTTP/1.0, TLS) such a client counts
/// as gone; in a stream without heartbeat the next Write finds out.
class HttpServer {
 public:
  /// Listens and starts the IO threads. Errors: kInvalidArgument (host, limits, TLS files),
  /// kUnavailable (address in use), kIo; messages name host and port.
  static Result<std::unique_ptr<HttpServer>> Start(HttpServerOptions options, HttpHandler handler);

  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  /// Stop(0), then joins every thread.
  ~HttpServer();

  /// Where it listens.
  uint16_t port() const;
  /// "http://127.0.0.1:8080".
  std::string url() const;
  size_t num_connections() const;

  /// Timers on this server's IO threads. They end with Stop.
  TimerService& timers();

  /// Stops accepting, closes idle connections, lets begun exchanges end for `grace`, then cuts
  /// them; returns when every connection is closed and every thread has ended. May be called again,
  /// also from other threads: a shorter grace shortens one that runs. Not from an IO thread.
  void Stop(std::chrono::milliseconds grace);

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon::net
