// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_node.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "apps/halfmoon/node_engine.h"
#include "engine/local_pages.h"
#include "kernels/paged_kv.h"
#include "net/digest.h"

namespace halfmoon::app {
namespace {

cluster::Role RoleOf(const std::string& role) {
  if (role == "prefill") return cluster::Role::kPrefill;
  return role == "decode" ? cluster::Role::kDecode : cluster::Role::kBoth;
}

std::string HostName() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "node";
}

}  // namespace

void AddNodeOptions(CLI::App* command, NodeFlags* flags) {
  constexpr const char* kGroup = "Cluster";
  auto add = [&](const char* names, auto& value, const char* help) {
    return command->add_option(names, value, help)->group(kGroup);
  };
  add("--role", flags->role,
      "Be a node of a cluster: prefill reads prompts, decode generates, both does either; "
      "requests come from a conductor (halfmoon conductor)")
      ->check(CLI::IsMember({"prefill", "decode", "both"}));
  add("--join", flags->join,
      "HOST:PORT of a conductor to tell of this node; may be given several times");
  add("--node-name", flags->name, "Name of this node, unique in the cluster (default: host:port)");
  add("--advertise", flags->advertise,
      "HOST:PORT at which others reach this node (default: --cluster-host and its port)");
  add("--transfer", flags->transfer,
      "Ways that KV may take to and from this node, of which the first that leads to the other "
      "node "
      "and works is used: shm (memory of the same host), ucx (RDMA, or copies between processes of "
      "the same host, where UCX is installed: halfmoon doctor), tcp")
      ->delimiter(',')
      ->check(CLI::IsMember({"shm", "ucx", "tcp"}))
      ->default_str("shm,ucx,tcp");
  AddClusterOptions(command, kGroup, &flags->cluster);
}

Result<std::unique_ptr<ClusterNode>> ClusterNode::Start(const NodeFlags& flags,
                                                        const ModelOptions& model, Runtime* runtime,
                                                        const std::string& http_url) {
  std::unique_ptr<ClusterNode> node(new ClusterNode());
  HM_ASSIGN(net::ChannelOptions channel, ChannelOptionsOf(flags.cluster));
  std::string advertised_host;
  if (!flags.advertise.empty()) {
    Result<net::HostPort> where = net::ParseHostPort(flags.advertise);
    if (!where.ok()) return where.error().WithContext("--advertise");
    advertised_host = where->host;
  } else if (channel.host == "0.0.0.0" || channel.host == "::") {
    return Error(ErrorCode::kInvalidArgument,
                 "--cluster-host " + channel.host +
                     " is no address that others can reach: say with --advertise HOST:PORT which "
                     "is");
  }
  auto allows = [&](std::string_view path) {
    return std::ranges::find(flags.transfer, path) != flags.transfer.end();
  };
  HM_ASSIGN(node->transfers_, transfer::StartTransfer({.host = channel.host,
                                                       .advertised_host = advertised_host,
                                                       .token = channel.token,
                                                       .allow_shared_memory = allows("shm"),
                                                       .allow_tcp = allows("tcp"),
                                                       .allow_ucx = allows("ucx")}));
  serve::ModelInfo info;
  info.vocab_size = static_cast<int32_t>(runtime->model->vocab_size());
  node->backend_ = std::make_unique<serve::Backend>(runtime->engine.get(), runtime->tokenizer.get(),
                                                    std::nullopt, std::move(info));
  node->engine_ =
      MakeNodeEngine(runtime->engine.get(), node->backend_.get(), runtime->kv_store.get());

  cluster::NodeServerOptions options;
  options.channel = std::move(channel);
  options.advertise = flags.advertise;
  options.join = flags.join;
  cluster::NodeDescription& description = options.description;
  HM_ASSIGN(const std::string random, net::RandomBytes(sizeof(description.incarnation)));
  std::memcpy(&description.incarnation, random.data(), random.size());
  // The port tells several nodes of one machine apart.
  description.name =
      flags.name.empty() ? HostName() + http_url.substr(http_url.rfind(':')) : flags.name;
  HM_TRY(cluster::CheckName("--node-name", description.name));
  description.http_url = http_url;
  description.version = HALFMOON_VERSION;
  description.model = runtime->name;
  description.fingerprint = runtime->model->fingerprint();
  description.kv_format_version = kernels::kKvFormatVersion;
  const kernels::KvLayout& layout = runtime->model->kv_layout();
  description.block_size = layout.block_size;
  description.max_request_tokens = runtime->engine->max_request_tokens();
  description.vocab_size = static_cast<int32_t>(runtime->model->vocab_size());
  const auto pages = static_cast<int64_t>(
      runtime->engine->local_pages()->page_memory().bytes.size() / layout.page_bytes());
  description.info = {.role = RoleOf(flags.role),
                      .kv_tokens = pages * layout.block_size,
                      .kv_bytes_per_token = static_cast<int64_t>(layout.bytes_per_token()),
                      .max_running = model.max_sequences,
                      .prefill_share = flags.role == "both" ? 1.0 - model.decode_share : 1.0};
  const std::string name = description.name;
  HM_ASSIGN(node->server_, cluster::NodeServer::Start(std::move(options), node->engine_.get(),
                                                      node->transfers_.get(), &runtime->clock));
  HM_ASSIGN(node->meta_store_, OpenEtcd(flags.cluster));
  if (node->meta_store_ != nullptr) {
    HM_TRY(node->meta_store_->Announce({.name = name, .address = node->server_->address()}));
  }
  return node;
}

void ClusterNode::Drain(std::chrono::milliseconds grace) {
  // Conductors that follow etcd would leave it at once if it were not there any more; they are told
  // by the node itself, and the announcement goes with it.
  server_->BeginDrain();
  const auto end = std::chrono::steady_clock::now() + grace;
  while (server_->num_active() > 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace halfmoon::app
