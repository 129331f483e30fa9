// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_options.h"

#include <CLI/CLI.hpp>
#include <fstream>

namespace halfmoon::app {

void AddClusterOptions(CLI::App* command, const std::string& group, ClusterFlags* flags) {
  auto add = [&](const char* names, auto& value, const char* help) {
    return command->add_option(names, value, help)->group(group);
  };
  add("--cluster-token", flags->token,
      "Secret that every process of the cluster has; rather set HALFMOON_CLUSTER_TOKEN, which "
      "other users of the machine cannot see");
  add("--cluster-token-file", flags->token_file, "File whose first line is the secret");
  add("--cluster-host", flags->host,
      "Address that the cluster's other processes reach this one at; 0.0.0.0 for every interface")
      ->capture_default_str();
  add("--cluster-port", flags->port, "Port of it; 0 lets the system choose")->capture_default_str();
  add("--etcd", flags->etcd,
      "Where the cluster's nodes are written down: URLs of an etcd, separated by commas "
      "(http://user:password@host:2379); instead of --join and --nodes, or beside them");
  add("--cluster-name", flags->name, "Which cluster in that etcd")->capture_default_str();
}

Result<std::unique_ptr<cluster::MetaStore>> OpenEtcd(const ClusterFlags& flags) {
  if (flags.etcd.empty()) return std::unique_ptr<cluster::MetaStore>();
  return cluster::OpenMetaStore(flags.etcd, {.cluster = flags.name}).WithContext("--etcd");
}

Result<net::ChannelOptions> ChannelOptionsOf(const ClusterFlags& flags) {
  net::ChannelOptions options{.host = flags.host, .port = flags.port, .token = flags.token};
  if (!flags.token_file.empty()) {
    std::ifstream file(flags.token_file);
    if (!file || !std::getline(file, options.token)) {
      return Error(ErrorCode::kInvalidArgument,
                   "--cluster-token-file: cannot read a line of " + flags.token_file);
    }
    if (options.token.ends_with('\r')) options.token.pop_back();
  }
  if (options.token.size() < 8) {
    return Error(ErrorCode::kInvalidArgument,
                 "a cluster needs a secret of at least 8 characters: --cluster-token-file FILE or "
                 "HALFMOON_CLUSTER_TOKEN; for example from `openssl rand -hex 32`");
  }
  return options;
}

}  // namespace halfmoon::app
