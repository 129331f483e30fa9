// SPDX-License-Identifier: Apache-2.0
// What makes a server a node of a cluster.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "apps/halfmoon/cli_app.h"
#include "apps/halfmoon/cluster_options.h"
#include "apps/halfmoon/runtime.h"
#include "cluster/node_server.h"
#include "serve/backend.h"
#include "transfer/transfer.h"

namespace halfmoon::app {

struct NodeFlags {
  std::string role;  ///< "prefill", "decode", "both"; empty: no node of a cluster
  std::string name;  ///< empty: host name and the port of its HTTP server
  std::string advertise;
  std::vector<std::string> join;
  std::vector<std::string> transfer = {"shm", "ucx", "tcp"};
  ClusterFlags cluster;

  bool is_node() const { return !role.empty(); }
};

void AddNodeOptions(CLI::App* command, NodeFlags* flags);

/// A running node. Goes before the engine.
class ClusterNode {
 public:
  /// runtime (with its engine started with shared pages and tracked blocks) outlives it.
  static Result<std::unique_ptr<ClusterNode>> Start(const NodeFlags& flags,
                                                    const ModelOptions& model, Runtime* runtime,
                                                    const std::string& http_url);

  const cluster::NodeServer& server() const { return *server_; }
  /// "tcp 127.0.0.1:41237, shm".
  std::string DescribeTransfers() const { return transfers_->Describe(); }
  /// Conductors give it nothing new; waits until what it has is done, at most `grace`.
  void Drain(std::chrono::milliseconds grace);

 private:
  ClusterNode() = default;

  std::unique_ptr<serve::Backend> backend_;  // compiles grammars
  std::unique_ptr<cluster::EngineHandle> engine_;
  std::unique_ptr<transfer::TransferEngine> transfers_;
  std::unique_ptr<cluster::NodeServer> server_;
  std::unique_ptr<cluster::MetaStore> meta_store_;  // null without etcd
};

}  // namespace halfmoon::app
