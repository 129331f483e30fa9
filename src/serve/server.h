// SPDX-License-Identifier: Apache-2.0
// serve: the OpenAI-compatible HTTP face of an engine: parses and checks requests, renders
// templates, tokenises, streams answers, counts metrics. It never computes a token and never
// touches sockets (net does).
//
// Threads: net's IO threads parse HTTP and answer what is quick; worker threads parse bodies,
// render and tokenise; one session thread turns output into answers. The engine thread only wakes
// the latter.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "serve/backend.h"
#include "serve/server_options.h"

namespace halfmoon::serve {

/// The server. Listens from Start on, so that health checks and clients get an answer while the
/// model loads: generation endpoints say 503 with progress until SetReady. Thread-safe.
class Server {
 public:
  /// Errors: those of net::HttpServer::Start; kInvalidArgument where a bound or an API key is
  /// empty.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options);
  /// Shutdown(0).
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;
  /// "http://127.0.0.1:8080".
  std::string url() const;

  /// How far the load has come, in whatever unit; shown by /ready.
  void SetLoadProgress(size_t done, size_t total);

  /// Requests are answered from now on. engine and tokenizer outlive Shutdown.
  void SetReady(engine::Engine* engine, const text::Tokenizer* tokenizer,
                std::optional<text::ChatTemplate> chat_template, ModelInfo info);

  /// The load failed: generation endpoints answer 503 with this error. The server goes on
  /// listening.
  void SetFailed(const Error& error);

  /// /ready turns 503 and new generation requests get 503; those taken in go on.
  void BeginDrain();

  /// BeginDrain; waits up to `grace` for running requests; ends the rest with an error (streams: an
  /// error event and [DONE]); closes every connection and joins every thread. Takes at most the
  /// grace plus a few seconds for slow readers. May be called again. Not from a thread of this
  /// server.
  void Shutdown(std::chrono::milliseconds grace);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfmoon::serve
