// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: a request that a front door has taken in, and what follows from how far it
// has come.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/front_door.h"
#include "cluster/messages.h"
#include "cluster/placement.h"
#include "cluster/remote_stream.h"
#include "kv/block_key.h"

namespace halfmoon::cluster {

/// An export that some node of the request's attempt pulls.
struct Order {
  Ticket ticket;
  std::string address;  ///< of the node with the export
};

/// A request on its way through the cluster. IO thread only.
struct Running {
  RequestId id{};
  GenerateRequest request;  ///< as it came
  ServiceLimits limits;
  std::shared_ptr<RemoteStream> stream;
  std::vector<int32_t> generated;
  TimeUs waits_since_us = 0;  ///< for a node; 0: has one
  int attempts = 0;
  bool prompt_told = false;
  // The attempt that runs.
  CallId call{};
  std::string decode;   ///< address
  std::string prefill;  ///< address; empty: where it decodes
  std::vector<Order> orders;
};

/// What another node has to compute: what was generated so far is a part of its prompt.
GenerateRequest RestOf(const Running& running);

/// Why it is complete already, where only the word of that was lost with its node.
std::optional<FinishReason> EndOf(const Running& running, const std::optional<ServedModel>& model);

/// Of the blocks of the prompt that a node may have or get; the last token is in none of them.
std::vector<kv::BlockKey> KeysOf(const GenerateRequest& request, const ServedModel& model);

/// What the client is told.
Error RefusalOf(const Rejection& rejection);

}  // namespace halfmoon::cluster
