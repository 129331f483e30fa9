// SPDX-License-Identifier: Apache-2.0
// `halfmoon conductor`: the front door of a cluster. Speaks the whole HTTP API and computes
// nothing: requests go to the nodes.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/halfmoon/cluster_engine.h"
#include "apps/halfmoon/cluster_options.h"
#include "apps/halfmoon/cluster_page.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/http_front.h"
#include "apps/halfmoon/runtime.h"
#include "cluster/front_door.h"
#include "hub/hub.h"

namespace halfmoon::app {
namespace {

struct ConductorFlags {
  std::string model;
  HttpFlags http;
  ClusterFlags cluster;
  std::vector<std::string> nodes;
  std::string policy = std::string(cluster::Policies().front().name);
  std::string reject = std::string(cluster::RejectPolicyName(cluster::ConductorOptions().reject));
  double ttft_s = 0.0;
  double tbt_ms = 0.0;
  double wait_s = 30.0;
};

Result<cluster::FrontDoorOptions> DoorOptionsOf(const ConductorFlags& flags) {
  cluster::FrontDoorOptions door;
  HM_ASSIGN(door.channel, ChannelOptionsOf(flags.cluster));
  for (const std::string& node : flags.nodes) HM_TRY(net::ParseHostPort(node));
  const cluster::Policy* policy = cluster::FindPolicy(flags.policy);
  if (policy == nullptr) {
    return Error(ErrorCode::kInvalidArgument, "--policy: there is no policy " + flags.policy);
  }
  const auto reject = cluster::FindRejectPolicy(flags.reject);
  // A conductor that refuses what it has computed is for the simulator.
  if (!reject.has_value() || *reject == cluster::RejectPolicy::kLate) {
    return Error(ErrorCode::kInvalidArgument,
                 "--reject: must be none, early or predictive, not " + flags.reject);
  }
  door.conductor.policy = *policy;
  door.conductor.reject = *reject;
  door.wait_for_nodes_us = static_cast<TimeUs>(flags.wait_s * 1e6);
  return door;
}

/// True once a node is there; false where a signal came first.
bool WaitForNode(const cluster::FrontDoor& door) {
  while (!door.model().has_value()) {
    if (SignalWithin(50)) return false;
  }
  return true;
}

int RunConductor(ConductorFlags flags) {
  BlockEndingSignals();
  flags.http.default_class.ttft_us = static_cast<TimeUs>(flags.ttft_s * 1e6);
  flags.http.default_class.tbt_us = static_cast<TimeUs>(flags.tbt_ms * 1e3);
  Result<cluster::FrontDoorOptions> door_options = DoorOptionsOf(flags);
  if (!door_options.ok()) return Fail(door_options.error());
  Result<std::unique_ptr<Runtime>> loaded = LoadVocabulary(flags.model);
  if (!loaded.ok()) return Fail(loaded.error());
  Runtime& runtime = **loaded;
  Result<std::unique_ptr<cluster::FrontDoor>> opened =
      cluster::FrontDoor::Start(std::move(*door_options), &runtime.clock);
  if (!opened.ok()) return Fail(opened.error());
  cluster::FrontDoor& door = **opened;
  door.SetNodes(flags.nodes);
  Result<std::unique_ptr<cluster::MetaStore>> opened_store = OpenEtcd(flags.cluster);
  if (!opened_store.ok()) return Fail(opened_store.error());
  const std::unique_ptr<cluster::MetaStore> meta_store = std::move(*opened_store);
  if (meta_store != nullptr) {
    const Status followed = meta_store->Follow([&](std::vector<std::string> addresses) {
      addresses.insert(addresses.end(), flags.nodes.begin(), flags.nodes.end());
      door.SetNodes(std::move(addresses));
    });
    if (!followed.ok()) return Fail(followed.error());
  }
  const auto membership = [&]() -> std::string {
    if (meta_store != nullptr) return "etcd: " + meta_store->state();
    return flags.nodes.empty() ? "nodes join" : "nodes of a list, and those that join";
  };
  Result<std::unique_ptr<serve::Server>> started = StartHttp(
      flags.http,
      {{.path = "/cluster", .content_type = "text/html; charset=utf-8", .body = ClusterPage},
       {.path = "/cluster.json",
        .content_type = "application/json",
        .body = [&] { return ClusterJson(door.Describe(), membership()); }}},
      [&] { return ClusterMetrics(door.Describe()); });
  if (!started.ok()) return Fail(started.error());
  serve::Server& server = **started;
  std::fprintf(stderr,
               "Listening on %s\n"
               "cluster  nodes join at %s:%u (halfmoon serve --role ... --join), policy %s "
               "(--policy); live at %s/cluster\n",
               server.url().c_str(), flags.cluster.host.c_str(), unsigned{door.port()},
               flags.policy.c_str(), server.url().c_str());
  if (!WaitForNode(door)) {
    server.Shutdown(std::chrono::milliseconds(0));
    return kExitOk;
  }
  const cluster::ServedModel model = *door.model();
  const std::unique_ptr<engine::Engine> engine = MakeClusterEngine(&door);
  serve::ModelInfo info;
  info.name = runtime.name;
  info.license = hub::OneLine(runtime.license.name);
  info.license_note = hub::LicenseNote(runtime.license);
  info.fingerprint = model.fingerprint;
  info.vocab_size = model.vocab_size;
  server.SetReady(engine.get(), runtime.tokenizer.get(), std::move(runtime.chat_template),
                  std::move(info));
  PrintLicense(runtime);
  PrintHowTo(server.url(), flags.http.names.empty() ? runtime.name : flags.http.names.front(),
             flags.http.needs_key());
  WaitForSignal();
  DrainHttp(&server, flags.http);
  return kExitOk;
}

std::string PolicyHelp() {
  std::string help = "How nodes are chosen:";
  for (const cluster::Policy& policy : cluster::Policies()) {
    help += "\n" + std::string(policy.name) + ": " + std::string(policy.summary);
  }
  return help;
}

}  // namespace

void AddConductorCommand(CLI::App* app, Action* action) {
  auto flags = std::make_shared<ConductorFlags>();
  CLI::App* command = app->add_subcommand(
      "conductor", "Be the front door of a cluster of `halfmoon serve --role ...` nodes");
  command
      ->add_option("-m,--model", flags->model,
                   "The model that the nodes serve; only its vocabulary is read")
      ->required();
  flags->http.keeps_limits = true;
  AddHttpOptions(command, &flags->http);
  auto add = [command](const char* names, auto& value, const std::string& help) {
    return command->add_option(names, value, help)->group("Cluster");
  };
  AddClusterOptions(command, "Cluster", &flags->cluster);
  add("--nodes", flags->nodes, "HOST:PORT of nodes, separated by commas; others may join")
      ->delimiter(',');
  add("--policy", flags->policy, PolicyHelp())->capture_default_str();
  add("--reject", flags->reject,
      "When a request that would break the limits is refused with 429: none, early (by the load "
      "of the moment), predictive (by the load at which it would decode)")
      ->capture_default_str();
  add("--ttft-limit", flags->ttft_s,
      "Limit of the time to the first token, seconds, of requests without a class; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--tbt-limit", flags->tbt_ms,
      "Limit of the time between tokens, milliseconds, of requests without a class; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--wait-for-nodes", flags->wait_s,
      "How long a request whose node is gone waits for another before it fails, seconds")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->footer(
      "Example, on one machine:\n"
      "  export HALFMOON_CLUSTER_TOKEN=$(openssl rand -hex 32)\n"
      "  halfmoon conductor -m model.gguf --port 8080 --cluster-port 7000\n"
      "  halfmoon serve -m model.gguf --port 8081 --role prefill --join 127.0.0.1:7000\n"
      "  halfmoon serve -m model.gguf --port 8082 --role decode --join 127.0.0.1:7000\n"
      "More: docs/cluster.md");
  command->callback([flags, action] { *action = [flags] { return RunConductor(*flags); }; });
}

}  // namespace halfmoon::app
