// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: a node's key in etcd and the lease that it hangs on.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/result.h"
#include "cluster/etcd_client.h"
#include "cluster/etcd_messages.h"
#include "cluster/meta_store.h"

namespace halfmoon::cluster {

/// Not thread-safe.
class EtcdLease {
 public:
  EtcdLease(std::string prefix, std::chrono::seconds ttl) : prefix_(std::move(prefix)), ttl_(ttl) {}

  /// Keeps the lease alive and sees that the key says what `node` says; makes both again where they
  /// are gone. To be called again well within the lifetime, with the same or another node. Errors:
  /// those of Client::Call, kCorrupt.
  Status Keep(etcd::Client* client, const NodeAnnouncement& node);

  /// Ends the lease, and with it the key. What fails is left to the lifetime.
  void GiveBack(etcd::Client* client);

 private:
  Status KeepAlive(etcd::Client* client);
  Status Grant(etcd::Client* client);
  Status Put(etcd::Client* client, const NodeAnnouncement& node);
  Status CheckKey(etcd::Client* client, const NodeAnnouncement& node);

  const std::string prefix_;
  const std::chrono::seconds ttl_;
  etcd::LeaseId lease_ = etcd::LeaseId::kNone;
  std::optional<NodeAnnouncement> written_;  ///< under lease_
  bool warned_ = false;                      ///< of another process with this name
};

}  // namespace halfmoon::cluster
