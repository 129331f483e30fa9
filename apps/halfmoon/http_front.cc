// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/http_front.h"

#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <future>
#include <utility>

#include "apps/halfmoon/command.h"

namespace halfmoon::app {
namespace {

/// One key a line; empty lines and lines that begin with # are passed over.
Status ReadKeys(const std::string& path, std::vector<std::string>* keys) {
  std::ifstream file(path);
  if (!file) {
    return Error(ErrorCode::kNotFound, "--api-key-file: cannot read " + path);
  }
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && line.front() != '#') keys->push_back(line);
  }
  return {};
}

Result<std::vector<serve::ServiceClass>> ClassesOf(const HttpFlags& flags) {
  std::vector<serve::ServiceClass> classes = {flags.default_class};
  for (const std::string& text : flags.classes) {
    Result<serve::ServiceClass> parsed = serve::ParseServiceClass(text);
    if (!parsed.ok()) {
      return Error(ErrorCode::kInvalidArgument, "--service-class: " + parsed.error().message());
    }
    if (!flags.keeps_limits && (parsed->ttft_us > 0 || parsed->tbt_us > 0)) {
      return Error(ErrorCode::kInvalidArgument,
                   "--service-class: limits are kept by `halfmoon conductor`; a single server "
                   "takes NAME,priority=N");
    }
    const auto same = std::ranges::find(classes, parsed->name, &serve::ServiceClass::name);
    if (same != classes.end()) {
      return Error(ErrorCode::kInvalidArgument, "--service-class: " + parsed->name + " twice");
    }
    classes.push_back(std::move(*parsed));
  }
  return classes;
}

sigset_t EndingSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

void AddHttpOptions(CLI::App* command, HttpFlags* flags) {
  auto add = [command](const char* names, auto& value, const char* help) {
    return command->add_option(names, value, help)->group("Server");
  };
  add("--host", flags->host, "Address to listen on; 0.0.0.0 for every interface")
      ->capture_default_str();
  add("--port", flags->port, "Port; 0 lets the system choose")->capture_default_str();
  add("--api-key", flags->api_keys, "Key that clients have to send; may be given several times");
  add("--api-key-file", flags->api_key_file, "File with one key a line");
  add("-a,--alias,--served-model-name", flags->names,
      "Name that clients use (default: the file's); may be given several times");
  add("--cors-origin", flags->cors, "Origin of web pages that may call, or *; off by default");
  add("--max-body-mib", flags->max_body_mib, "Largest request body")
      ->check(CLI::Range(size_t{1}, size_t{4096}))
      ->capture_default_str();
  add("--max-output-tokens", flags->max_output_tokens,
      "Bound of every request's max_tokens; 0: the context only")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--service-class", flags->classes,
      flags->keeps_limits
          ? "NAME[,priority=N][,ttft=SECONDS][,tbt=MILLISECONDS]: a class of requests, which they "
            "name in service_tier; smaller priorities go first; may be given several times"
          : "NAME[,priority=N]: a class of requests, which they name in service_tier; smaller "
            "priorities go first; may be given several times");
  add("--grace-seconds", flags->grace_s,
      "How long running requests may go on after SIGTERM before they are ended with an error")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  add("--ssl-certfile", flags->tls_certificate, "PEM certificate chain: serve HTTPS");
  add("--ssl-keyfile", flags->tls_key, "PEM key of --ssl-certfile");
}

Result<std::unique_ptr<serve::Server>> StartHttp(const HttpFlags& flags,
                                                 std::vector<serve::Page> pages,
                                                 std::function<std::string()> more_metrics) {
  serve::ServerOptions server;
  server.http.host = flags.host;
  server.http.port = flags.port;
  server.http.max_body_bytes = flags.max_body_mib << 20;
  server.http.tls_certificate_file = flags.tls_certificate;
  server.http.tls_key_file = flags.tls_key;
  server.api_keys = flags.api_keys;
  if (!flags.api_key_file.empty()) HM_TRY(ReadKeys(flags.api_key_file, &server.api_keys));
  HM_ASSIGN(server.classes, ClassesOf(flags));
  server.served_model_names = flags.names;
  server.cors_origins = flags.cors;
  server.max_output_tokens = flags.max_output_tokens;
  server.version = HALFMOON_VERSION;
  server.pages = std::move(pages);
  server.more_metrics = std::move(more_metrics);
  return serve::Server::Start(std::move(server));
}

void PrintHowTo(const std::string& url, const std::string& name, bool needs_key) {
  const char* key = needs_key ? "$API_KEY" : "none";
  std::fprintf(stderr,
               "\nReady. Lines to paste:\n\n"
               "  curl %s/v1/chat/completions -H 'Content-Type: application/json'%s -d \\\n"
               "    '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": "
               "\"Hello!\"}]}'\n\n"
               "  from openai import OpenAI\n"
               "  client = OpenAI(base_url=\"%s/v1\", api_key=\"%s\")\n\n"
               "  Coding agents: OPENAI_BASE_URL=%s/v1 OPENAI_API_KEY=%s\n\n",
               url.c_str(), needs_key ? " -H \"Authorization: Bearer $API_KEY\"" : "", name.c_str(),
               url.c_str(), key, url.c_str(), key);
}

void BlockEndingSignals() {
  const sigset_t signals = EndingSignals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

bool SignalWithin(int timeout_ms) {
  const sigset_t signals = EndingSignals();
  const timespec timeout{.tv_sec = timeout_ms / 1000, .tv_nsec = (timeout_ms % 1000) * 1'000'000L};
  return ::sigtimedwait(&signals, nullptr, &timeout) > 0;
}

void WaitForSignal() {
  const sigset_t signals = EndingSignals();
  int signal = 0;
  // Fails only for an invalid set.
  ::sigwait(&signals, &signal);
}

void DrainHttp(serve::Server* server, const HttpFlags& flags, const DrainHooks& hooks) {
  std::fprintf(stderr, "halfmoon: draining for up to %.0f s; a second signal ends at once\n",
               flags.grace_s);
  using std::chrono::milliseconds;
  const auto end =
      std::chrono::steady_clock::now() + milliseconds(static_cast<int64_t>(flags.grace_s * 1000));
  const auto left = [end] {
    return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(
                                         end - std::chrono::steady_clock::now()));
  };
  std::future<void> shutdown = std::async(std::launch::async, [&] {
    if (hooks.before) hooks.before(left());
    server->Shutdown(left());
    if (hooks.after) hooks.after(left());
  });
  while (shutdown.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (SignalWithin(20)) ::_exit(kExitInterrupted);
  }
}

}  // namespace halfmoon::app
