// SPDX-License-Identifier: Apache-2.0
// Flags of a process that belongs to a cluster.
#pragma once

#include <memory>
#include <string>

#include "apps/halfmoon/cli_app.h"
#include "base/result.h"
#include "cluster/meta_store.h"
#include "net/channel.h"

namespace halfmoon::app {

struct ClusterFlags {
  std::string token;
  std::string token_file;
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  std::string etcd;  ///< empty: none
  std::string name = "default";
};

/// Adds them under `group`. Defaults: loopback only, a port that the system chooses.
void AddClusterOptions(CLI::App* command, const std::string& group, ClusterFlags* flags);

/// The etcd that the flags name; null where they name none. Errors: kInvalidArgument naming the
/// flag.
Result<std::unique_ptr<cluster::MetaStore>> OpenEtcd(const ClusterFlags& flags);

/// Errors: kInvalidArgument naming the flag.
Result<net::ChannelOptions> ChannelOptionsOf(const ClusterFlags& flags);

}  // namespace halfmoon::app
