// SPDX-License-Identifier: Apache-2.0
// A small blocking HTTP/1.1 client: model hubs, health checks, tests, node to node.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"

namespace halfmoon::net {

struct HttpClientOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 80;
  bool tls = false;
  /// PEM file of trusted roots; empty takes the system's.
  std::string tls_ca_file;
  bool tls_verify = true;  ///< Certificate and host name.
  /// Connection and TLS handshake together. Includes the look-up of a name, but that cannot be
  /// broken off: a resolver that hangs holds the caller until it gives up.
  std::chrono::milliseconds connect_timeout{5'000};
  std::chrono::milliseconds read_timeout{60'000};   ///< Between two arrivals of bytes.
  std::chrono::milliseconds write_timeout{30'000};  ///< For the whole request.
  size_t max_header_bytes = 64 << 10;
  size_t max_body_bytes = size_t{1} << 30;  ///< Bound of a collected or streamed body.
  /// Proxy to go through; an empty host goes straight. TLS runs through a CONNECT tunnel, so that
  /// the proxy sees host and port only; plain requests name the whole URL.
  std::string proxy_host;
  uint16_t proxy_port = 0;
  std::string proxy_authorization;  ///< Value of Proxy-Authorization; empty sends none.
  /// Asked about ten times a second while a request waits; true ends it with kCancelled. May be
  /// empty. For flags that a signal handler sets.
  std::function<bool()> interrupted;
};

struct ClientRequest {
  std::string method = "GET";
  std::string target = "/";
  Headers headers;  ///< Host, Content-Length and User-Agent are added where missing.
  std::string body;
};

/// "http://host:port/path" or "https://...". Fills host, port and tls; the rest keeps its defaults.
/// `target` (may be null) takes path and query. Errors: kInvalidArgument.
Result<HttpClientOptions> ParseUrl(std::string_view url, std::string* target = nullptr);

/// One connection to one server, kept open between requests where the server allows it. Not
/// thread-safe, but Cancel may be called from any thread.
class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  /// Sends and waits for the whole answer; any status is a success here. A connection that the
  /// server closed while it was idle is opened again once. Errors: kUnavailable (refused, reset,
  /// name unknown), kDeadlineExceeded, kCorrupt (not HTTP, cut short), kResourceExhausted (bounds),
  /// kCancelled, kInvalidArgument.
  Result<Response> Send(const ClientRequest& request);
  Result<Response> Get(std::string target);
  Result<Response> PostJson(std::string target, std::string body);

  /// As Send, but hands the body to `on_body` in pieces as they arrive; the returned body is empty.
  /// `on_head` (may be empty) sees status and headers first. False from `on_body` ends the request:
  /// the connection is closed and the error is kCancelled.
  Result<Response> SendStreaming(const ClientRequest& request,
                                 const std::function<bool(std::string_view)>& on_body,
                                 const std::function<void(const Response&)>& on_head = {});

  /// Ends a running request with kCancelled, from any thread. A request begun later is not
  /// affected.
  void Cancel();

  /// Closes the connection.
  void Close();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon::net
