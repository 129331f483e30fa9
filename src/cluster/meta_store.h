// SPDX-License-Identifier: Apache-2.0
// Who belongs to a cluster: nodes announce themselves, conductors follow the list of nodes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace halfmoon::cluster {

/// What a node says of itself.
struct NodeAnnouncement {
  /// Names the node within its cluster; 1 to 255 printable characters, neither space nor '/'. A
  /// later announcement under the same name replaces the earlier one, as a node that starts again
  /// does.
  std::string name;
  std::string address;  ///< "host:port" under which conductors and other nodes reach it
};

/// The addresses of all nodes, sorted, each once.
using OnNodes = std::function<void(std::vector<std::string> addresses)>;

/// Where a cluster's nodes are written down. Thread-safe. A store that is away removes nobody: the
/// list that was known last stays, and what nodes announced is written down again when the store is
/// back, however long that takes.
class MetaStore {
 public:
  MetaStore() = default;
  MetaStore(const MetaStore&) = delete;
  MetaStore& operator=(const MetaStore&) = delete;
  /// What it announced is taken back, if the store can be reached at once; otherwise it ends with
  /// its lease. No callback runs afterwards. Not from a callback.
  virtual ~MetaStore() = default;

  /// Announces a node from now on, for as long as this object lives; a second call replaces the
  /// first. Returns at once: state() tells whether the store could be reached. Errors:
  /// kInvalidArgument (name, address).
  virtual Status Announce(NodeAnnouncement node) = 0;

  /// Calls `on_nodes` with the whole list once it is known for the first time (also where it is
  /// empty), and whenever it changes: on a thread of the store, never two calls at once. It may be
  /// a moment after a node came or went. Errors: kInvalidArgument for a second call.
  virtual Status Follow(OnNodes on_nodes) = 0;

  /// For people: "connected", "connecting", or "away for 12 s: " and why.
  virtual std::string state() const = 0;
};

struct MetaStoreOptions {
  /// The cluster's name; characters as in a node's name.
  std::string cluster = "default";
  /// A node that ends without a word is removed this long after its last sign of life. 2 s to one
  /// hour, and the same for all nodes and conductors of a cluster: the latter let nodes announce
  /// themselves again for as long after the store was away.
  std::chrono::seconds ttl{10};
  std::string tls_ca_file;       ///< PEM file of trusted roots for https; empty: the system's.
  const Clock* clock = nullptr;  ///< Outlives the store; nullptr: the machine's monotonic clock.
};

/// Opens the store that `url_list` names: endpoints of one etcd (3.4 or later), apart by commas,
/// each "http[s]://[user:password@]host[:2379]". Returns at once, whether or not etcd can be
/// reached. Errors: kInvalidArgument (naming the part that is wrong; passwords are not repeated).
Result<std::unique_ptr<MetaStore>> OpenMetaStore(const std::string& url_list,
                                                 const MetaStoreOptions& options);

/// Errors: kInvalidArgument. `what` names the thing in messages, for example "node name".
Status CheckName(std::string_view what, std::string_view name);

}  // namespace halfmoon::cluster
