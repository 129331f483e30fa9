// SPDX-License-Identifier: Apache-2.0
// How a server is set up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "net/http_server.h"
#include "serve/service_class.h"

namespace halfmoon::serve {

/// A page that the program adds to those of the API. Open like /metrics: it must say nothing
/// secret.
struct Page {
  std::string path;
  std::string content_type;
  std::function<std::string()> body;  ///< on an IO thread: must be quick
};

struct ServerOptions {
  /// Where to listen, and the bounds on bytes and connections. error_body is set by the server.
  net::HttpServerOptions http;
  std::vector<std::string> api_keys;  ///< any of them is let in; none: everyone
  std::vector<std::string>
      served_model_names;  ///< the first is the default; none: ModelInfo's name
  /// The first is that of requests which name none. At least one.
  std::vector<ServiceClass> classes = {ServiceClass()};
  std::vector<std::string> cors_origins;  ///< origins of browsers let in, or "*"; none: CORS off
  int worker_threads = 2;                 ///< parse, render templates and tokenise
  size_t max_waiting_jobs = 256;          ///< requests waiting for a worker; above: 429
  int32_t max_output_tokens = 0;  ///< bound of every request's max_tokens; 0: the context only
  std::string version;            ///< of the program, for /version
  std::vector<Page> pages;
  /// What /metrics says beside the server's own, in the text format of Prometheus; empty: nothing.
  std::function<std::string()> more_metrics;
};

}  // namespace halfmoon::serve
