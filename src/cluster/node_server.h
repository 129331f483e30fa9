// SPDX-License-Identifier: Apache-2.0
// A node of the cluster: an engine that conductors give requests and other nodes copy KV from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/engine_handle.h"
#include "cluster/kv_exporter.h"
#include "cluster/messages.h"
#include "net/channel.h"
#include "transfer/transfer.h"

namespace halfmoon::cluster {

struct NodeServerOptions {
  net::ChannelOptions channel;  ///< where it listens, and the cluster's token
  /// "host:port" under which others reach it; empty: where it listens.
  std::string advertise;
  /// Conductors to tell of this node, "host:port"; tried again for as long as it lives.
  std::vector<std::string> join;
  /// address is filled in.
  NodeDescription description;
  ExporterOptions exports;
};

/// Thread-safe.
class NodeServer {
 public:
  /// All outlive it. Errors: those of net::ChannelService::Start; kInvalidArgument (join).
  static Result<std::unique_ptr<NodeServer>> Start(NodeServerOptions options, EngineHandle* engine,
                                                   transfer::TransferEngine* transfers,
                                                   const Clock* clock);
  virtual ~NodeServer() = default;
  /// "host:port" under which others reach it.
  virtual const std::string& address() const = 0;
  /// Conductors give it nothing new from now on.
  virtual void BeginDrain() = 0;
  /// Requests and exports inside now.
  virtual int num_active() const = 0;
};

}  // namespace halfmoon::cluster
