// SPDX-License-Identifier: Apache-2.0
// `halfmoon serve`: the HTTP server. Listens at once, loads, answers, drains on SIGTERM.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <future>
#include <thread>

#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"
#include "base/log.h"
#include "hub/hub.h"
#include "serve/server.h"

namespace halfmoon::app {
namespace {

struct ServeOptions {
  ModelOptions model;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  std::vector<std::string> api_keys;
  std::string api_key_file;
  std::vector<std::string> names;
  std::vector<std::string> cors;
  int max_queue = 256;
  double grace_s = 30.0;
  size_t max_body_mib = 32;
  int max_output_tokens = 0;
  std::string tls_certificate;
  std::string tls_key;
};

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

/// The signals that end the server. Blocked before the first thread starts, so that every thread
/// leaves them to WaitForSignal.
sigset_t EndingSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  return signals;
}

/// True when an ending signal came within `timeout_ms`.
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

Result<std::unique_ptr<serve::Server>> StartServer(const ServeOptions& options) {
  serve::ServerOptions server;
  server.http.host = options.host;
  server.http.port = options.port;
  server.http.max_body_bytes = options.max_body_mib << 20;
  server.http.tls_certificate_file = options.tls_certificate;
  server.http.tls_key_file = options.tls_key;
  server.api_keys = options.api_keys;
  if (!options.api_key_file.empty()) HM_TRY(ReadKeys(options.api_key_file, &server.api_keys));
  server.served_model_names = options.names;
  server.cors_origins = options.cors;
  server.max_output_tokens = options.max_output_tokens;
  server.version = HALFMOON_VERSION;
  return serve::Server::Start(std::move(server));
}

Result<std::unique_ptr<Runtime>> LoadAndStart(const ServeOptions& options, serve::Server* server) {
  const LoadProgress terminal = TerminalProgress();
  const LoadProgress progress = [&](size_t done, size_t total) {
    server->SetLoadProgress(done, total);
    terminal(done, total);
  };
  HM_ASSIGN(std::unique_ptr<Runtime> runtime,
            LoadRuntime(options.model, /*tokenizer_required=*/true, progress));
  HM_TRY(StartEngine(options.model, options.max_queue, runtime.get()));
  return runtime;
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

int RunServe(const ServeOptions& options) {
  const sigset_t signals = EndingSignals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Result<std::unique_ptr<serve::Server>> started = StartServer(options);
  if (!started.ok()) return Fail(started.error());
  serve::Server& server = **started;
  std::fprintf(stderr, "Listening on %s\n", server.url().c_str());

  std::promise<Result<std::unique_ptr<Runtime>>> promise;
  std::future<Result<std::unique_ptr<Runtime>>> loading = promise.get_future();
  std::thread loader([&] { promise.set_value(LoadAndStart(options, &server)); });
  while (loading.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (!SignalWithin(50)) continue;
    // Nothing was taken in yet, and a load cannot be cut short: the process ends as it is.
    std::fprintf(stderr, "halfmoon: stopped while loading\n");
    server.Shutdown(std::chrono::milliseconds(0));
    ::_exit(kExitOk);
  }
  loader.join();
  Result<std::unique_ptr<Runtime>> loaded = loading.get();
  if (!loaded.ok()) {
    server.SetFailed(loaded.error());
    server.Shutdown(std::chrono::milliseconds(0));
    return Fail(loaded.error());
  }
  Runtime& runtime = **loaded;
  serve::ModelInfo info;
  info.name = runtime.name;
  info.license = hub::OneLine(runtime.license.name);
  info.license_note = hub::LicenseNote(runtime.license);
  info.fingerprint = runtime.model->fingerprint();
  info.vocab_size = static_cast<int32_t>(runtime.model->vocab_size());
  server.SetReady(runtime.engine.get(), runtime.tokenizer.get(), std::move(runtime.chat_template),
                  std::move(info));
  PrintPlan(options.model, runtime);
  PrintHowTo(server.url(), options.names.empty() ? runtime.name : options.names.front(),
             !options.api_keys.empty() || !options.api_key_file.empty());

  WaitForSignal();
  std::fprintf(stderr, "halfmoon: draining for up to %.0f s; a second signal ends at once\n",
               options.grace_s);
  const TimeUs deadline_us = runtime.clock.NowUs() + static_cast<TimeUs>(options.grace_s * 1e6);
  std::future<void> shutdown = std::async(std::launch::async, [&] {
    server.Shutdown(std::chrono::milliseconds(static_cast<int64_t>(options.grace_s * 1000)));
    // What is left of the grace is the KV store's, and a second where requests have taken all of
    // it.
    FinishEngine(std::max<TimeUs>(1'000'000, deadline_us - runtime.clock.NowUs()), &runtime);
  });
  while (shutdown.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (SignalWithin(20)) ::_exit(kExitInterrupted);
  }
  return kExitOk;
}

}  // namespace

void AddServeCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command = app->add_subcommand("serve", "Serve the OpenAI API over HTTP");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation);
  AddKvStoreOptions(command, &options->model.kv_store);
  auto add = [command](const char* flags, auto& value, const char* help) {
    return command->add_option(flags, value, help)->group("Server");
  };
  add("--host", options->host, "Address to listen on; 0.0.0.0 for every interface")
      ->capture_default_str();
  add("--port", options->port, "Port; 0 lets the system choose")->capture_default_str();
  add("--api-key", options->api_keys, "Key that clients have to send; may be given several times");
  add("--api-key-file", options->api_key_file, "File with one key a line");
  add("-a,--alias,--served-model-name", options->names,
      "Name that clients use (default: the file's); may be given several times");
  add("--cors-origin", options->cors, "Origin of web pages that may call, or *; off by default");
  add("--max-queue", options->max_queue,
      "Requests that may wait; beyond, clients get 429 with Retry-After")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add("--max-body-mib", options->max_body_mib, "Largest request body")
      ->check(CLI::Range(size_t{1}, size_t{4096}))
      ->capture_default_str();
  add("--max-output-tokens", options->max_output_tokens,
      "Bound of every request's max_tokens; 0: the context only")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--grace-seconds", options->grace_s,
      "How long running requests may go on after SIGTERM before they are ended with an error")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  add("--ssl-certfile", options->tls_certificate, "PEM certificate chain: serve HTTPS");
  add("--ssl-keyfile", options->tls_key, "PEM key of --ssl-certfile");
  command->footer(
      "Example:\n  halfmoon serve -m model.gguf --port 8080\n"
      "  curl http://127.0.0.1:8080/v1/models\nThe whole API: docs/http_api.md");
  command->callback([options, action] { *action = [options] { return RunServe(*options); }; });
}

}  // namespace halfmoon::app
