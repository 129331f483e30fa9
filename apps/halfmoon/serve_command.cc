// SPDX-License-Identifier: Apache-2.0
// `halfmoon serve`: the HTTP server. Listens at once, loads, answers, drains on SIGTERM.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <future>
#include <thread>

#include "apps/halfmoon/cluster_node.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/http_front.h"
#include "apps/halfmoon/runtime.h"
#include "hub/hub.h"
#include "serve/server.h"

namespace halfmoon::app {
namespace {

struct ServeOptions {
  ModelOptions model;
  HttpFlags http;
  NodeFlags node;
  int max_queue = 256;
};

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

void PrintNode(const NodeFlags& flags, const ClusterNode& node) {
  std::fprintf(stderr, "cluster  %s node (--role) at %s, KV over %s\n", flags.role.c_str(),
               node.server().address().c_str(), node.DescribeTransfers().c_str());
}

int RunServe(const ServeOptions& options) {
  BlockEndingSignals();
  // What can be said of the flags is said before the load.
  if (options.node.is_node()) {
    const Result<net::ChannelOptions> channel = ChannelOptionsOf(options.node.cluster);
    if (!channel.ok()) return Fail(channel.error());
  }
  Result<std::unique_ptr<serve::Server>> started = StartHttp(options.http);
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
  std::unique_ptr<ClusterNode> node;
  if (options.node.is_node()) {
    Result<std::unique_ptr<ClusterNode>> joined =
        ClusterNode::Start(options.node, options.model, &runtime, server.url());
    if (!joined.ok()) {
      server.SetFailed(joined.error());
      server.Shutdown(std::chrono::milliseconds(0));
      return Fail(joined.error());
    }
    node = std::move(*joined);
  }
  serve::ModelInfo info;
  info.name = runtime.name;
  info.license = hub::OneLine(runtime.license.name);
  info.license_note = hub::LicenseNote(runtime.license);
  info.fingerprint = runtime.model->fingerprint();
  info.vocab_size = static_cast<int32_t>(runtime.model->vocab_size());
  PrintPlan(options.model, runtime);
  if (node != nullptr) PrintNode(options.node, *node);
  server.SetReady(runtime.engine.get(), runtime.tokenizer.get(), std::move(runtime.chat_template),
                  std::move(info));
  PrintHowTo(server.url(), options.http.names.empty() ? runtime.name : options.http.names.front(),
             options.http.needs_key());

  WaitForSignal();
  DrainHttp(&server, options.http,
            {.before =
                 [&](std::chrono::milliseconds grace) {
                   if (node != nullptr) node->Drain(grace);
                 },
             .after =
                 [&](std::chrono::milliseconds left) {
                   node.reset();
                   // What is left of the grace is the KV store's, and a second where requests have
                   // taken all of it.
                   FinishEngine(std::max<TimeUs>(1'000'000, left.count() * 1000), &runtime);
                 }});
  return kExitOk;
}

}  // namespace

void AddServeCommand(CLI::App* app, Action* action) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command = app->add_subcommand("serve", "Serve the OpenAI API over HTTP");
  AddModelOptions(command, &options->model);
  AddSpeculationOptions(command, &options->model.speculation);
  AddKvStoreOptions(command, &options->model.kv_store);
  AddHttpOptions(command, &options->http);
  command
      ->add_option("--max-queue", options->max_queue,
                   "Requests that may wait; beyond, clients get 429 with Retry-After")
      ->group("Server")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  AddNodeOptions(command, &options->node);
  command->footer(
      "Example:\n  halfmoon serve -m model.gguf --port 8080\n"
      "  curl http://127.0.0.1:8080/v1/models\nThe whole API: docs/http_api.md");
  command->callback([options, action] {
    options->model.cluster_node = options->node.is_node();
    *action = [options] { return RunServe(*options); };
  });
}

}  // namespace halfmoon::app
