// SPDX-License-Identifier: Apache-2.0
// What `halfmoon serve` and `halfmoon conductor` have in common: the HTTP server, its flags, and
// the signals that end it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfmoon/cli_app.h"
#include "base/result.h"
#include "serve/server.h"

namespace halfmoon::app {

struct HttpFlags {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  std::vector<std::string> api_keys;
  std::string api_key_file;
  std::vector<std::string> names;
  std::vector<std::string> cors;
  double grace_s = 30.0;
  size_t max_body_mib = 32;
  int max_output_tokens = 0;
  std::vector<std::string> classes;
  /// Of requests that name no class.
  serve::ServiceClass default_class;
  /// Whether somebody behind the server keeps the limits of classes.
  bool keeps_limits = false;
  std::string tls_certificate;
  std::string tls_key;

  bool needs_key() const { return !api_keys.empty() || !api_key_file.empty(); }
};

void AddHttpOptions(CLI::App* command, HttpFlags* flags);

/// Listens. Errors: those of serve::Server::Start; kNotFound for a key file.
Result<std::unique_ptr<serve::Server>> StartHttp(const HttpFlags& flags,
                                                 std::vector<serve::Page> pages = {},
                                                 std::function<std::string()> more_metrics = {});

/// Lines to paste, on stderr.
void PrintHowTo(const std::string& url, const std::string& name, bool needs_key);

/// SIGTERM and SIGINT: from now on only SignalWithin and WaitForSignal see them. Before the first
/// thread is started.
void BlockEndingSignals();
/// True when an ending signal came within `timeout_ms`.
bool SignalWithin(int timeout_ms);
void WaitForSignal();
struct DrainHooks {
  std::function<void(std::chrono::milliseconds grace)> before;  ///< may be empty
  /// When every request has ended; may be empty.
  std::function<void(std::chrono::milliseconds left)> after;
};
/// Lets requests end for the grace period; a second signal ends the process at once.
void DrainHttp(serve::Server* server, const HttpFlags& flags, const DrainHooks& hooks = {});

}  // namespace halfmoon::app
