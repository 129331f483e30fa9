// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: what a store holds of one node (docs/formats/cluster_etcd.md).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::cluster {

/// Nodes of one cluster; more keys than that under its prefix are taken for a mistake.
inline constexpr size_t kMaxNodes = 4096;

/// "/halfmoon/<cluster>/nodes/"; a node's name follows.
std::string NodePrefix(std::string_view cluster);

/// Errors: kInvalidArgument where it is not "host:port" with a port from 1 to 65535.
Status CheckAddress(std::string_view address);

/// The record as JSON. The address has been checked.
std::string EncodeNodeRecord(std::string_view address);
/// The address in a record. Errors: kCorrupt, kUnsupported (another version).
Result<std::string> ParseNodeRecord(std::string_view record);

}  // namespace halfmoon::cluster
