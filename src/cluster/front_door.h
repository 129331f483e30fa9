// SPDX-License-Identifier: Apache-2.0
// Where requests enter the cluster: asks the conductor where each one is computed, hands it to
// those nodes, and carries it on elsewhere when one of them goes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/conductor.h"
#include "cluster/engine_handle.h"
#include "cluster/messages.h"
#include "net/channel.h"

namespace halfmoon::cluster {

struct FrontDoorOptions {
  net::ChannelOptions channel;  ///< where nodes that join say so, and the cluster's token
  ConductorOptions conductor;
  /// A request whose nodes are gone waits so long for others before it fails.
  TimeUs wait_for_nodes_us = 30'000'000;
  /// Nodes that a request may lose before it fails.
  int max_attempts = 8;
  uint32_t stream_events = 256;  ///< of a request, on their way or not yet taken
};

/// A node as the front door sees it.
struct NodeStatus {
  std::string address;
  bool connected = false;
  std::string error;  ///< why it is not, as far as known
  NodeDescription description;
  Load load;
  int prefills = 0;  ///< of this front door's requests
  int decodes = 0;
};

struct ClusterStatus {
  std::vector<NodeStatus> nodes;
  int requests = 0;
  int waiting = 0;  ///< for a node
  uint64_t placed = 0;
  uint64_t rejected = 0;
  uint64_t disaggregated = 0;  ///< of those placed: prefilled elsewhere than decoded
  uint64_t fetched = 0;        ///< with blocks that other nodes keep
  TierCounts fetched_blocks;   ///< that these found, by where they lay there
  uint64_t moved = 0;          ///< requests that went on on another node
  uint64_t failed = 0;
  /// When the load that the latest rejection met is predicted to be gone, from then on; 0: none.
  TimeUs retry_after_us = 0;
};

/// What all nodes have in common.
struct ServedModel {
  std::string name;
  std::string fingerprint;
  uint32_t kv_format_version = 0;
  int32_t block_size = 0;
  int32_t vocab_size = 0;
  int32_t max_request_tokens = 0;  ///< the largest of any node
};

/// Thread-safe.
class FrontDoor {
 public:
  /// The clock outlives it. Errors: those of net::ChannelService::Start.
  static Result<std::unique_ptr<FrontDoor>> Start(FrontDoorOptions options, const Clock* clock);
  /// Ends every request with kUnavailable.
  virtual ~FrontDoor() = default;

  /// Where nodes join; 0 where it does not listen.
  virtual uint16_t port() const = 0;
  /// Nodes by "host:port", whoever knows them (a list, a MetaStore). Those that are not among them
  /// any more are left; nodes that joined stay as long as they say so.
  virtual void SetNodes(std::vector<std::string> addresses) = 0;

  /// Of the request's turn, its priority counts; the rest is decided here. Limits hold as it
  /// arrives: what was computed is never thrown away. Errors: kUnavailable (no node),
  /// kResourceExhausted (limits would break), kInvalidArgument.
  virtual Result<std::unique_ptr<Sequence>> Submit(GenerateRequest request,
                                                   const ServiceLimits& limits = {}) = 0;
  /// nullopt before the first node was there.
  virtual std::optional<ServedModel> model() const = 0;
  virtual ClusterStatus Describe() const = 0;
};

}  // namespace halfmoon::cluster
