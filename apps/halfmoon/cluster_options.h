// SPDX-License-Identifier: Apache-2.0
// Flags of a process that belongs to a cluster.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/channel.h"

namespace halfmoon::app {

struct ClusterFlags {
  std::string token;
  std::string token_file;
  std::string host = "127.0.0.1";
  uint16_t port = 0;
};

/// Adds them under `group`. Defaults: loopback only, a port that the system chooses.
void AddClusterOptions(CLI::App* command, const std::string& group, ClusterFlags* flags);

/// Errors: kInvalidArgument naming the flag.
Result<net::ChannelOptions> ChannelOptionsOf(const ClusterFlags& flags);

}  // namespace halfmoon::app
