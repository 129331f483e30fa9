// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_lease.h"

#include <utility>

#include "base/log.h"
#include "cluster/node_record.h"

namespace halfmoon::cluster {

Status EtcdLease::Keep(etcd::Client* client, const NodeAnnouncement& node) {
  if (written_ && written_->name != node.name) GiveBack(client);
  if (lease_ != etcd::LeaseId::kNone) HM_TRY(KeepAlive(client));
  if (lease_ == etcd::LeaseId::kNone) HM_TRY(Grant(client));
  if (written_ && written_->address == node.address) return CheckKey(client, node);
  return Put(client, node);
}

Status EtcdLease::KeepAlive(etcd::Client* client) {
  HM_ASSIGN(const std::string body,
            client->Call("/v3/lease/keepalive", etcd::LeaseRequest(lease_)));
  HM_ASSIGN(const etcd::LeaseAnswer answer,
            etcd::ParseKeepAlive(body).WithContext("keeping the lease alive"));
  if (answer.ttl_s > 0) return {};
  HM_LOG_INFO("etcd: the lease of this node has ended; it is announced again");
  lease_ = etcd::LeaseId::kNone;
  written_.reset();
  return {};
}

Status EtcdLease::Grant(etcd::Client* client) {
  HM_ASSIGN(const std::string body,
            client->Call("/v3/lease/grant", etcd::LeaseGrantRequest(ttl_.count())));
  HM_ASSIGN(const etcd::LeaseAnswer answer,
            etcd::ParseLeaseGrant(body).WithContext("asking for a lease"));
  lease_ = answer.id;
  written_.reset();
  return {};
}

Status EtcdLease::Put(etcd::Client* client, const NodeAnnouncement& node) {
  written_.reset();
  const auto body = client->Call(
      "/v3/kv/put", etcd::PutRequest(prefix_ + node.name, EncodeNodeRecord(node.address), lease_));
  if (!body.ok()) {
    if (body.error().code() == ErrorCode::kNotFound) lease_ = etcd::LeaseId::kNone;
    return body.error().WithContext("announcing this node");
  }
  written_ = node;
  return {};
}

// A key may go without its lease: deleted by hand, or the store was restored from a copy.
Status EtcdLease::CheckKey(etcd::Client* client, const NodeAnnouncement& node) {
  HM_ASSIGN(const std::string body,
            client->Call("/v3/kv/range", etcd::RangeRequest(prefix_ + node.name)));
  HM_ASSIGN(const etcd::RangeAnswer answer,
            etcd::ParseRange(body).WithContext("looking for this node's key"));
  if (answer.kvs.empty()) return Put(client, node);
  if (answer.kvs.front().lease != lease_ && !std::exchange(warned_, true)) {
    HM_LOG_WARN("etcd: another process announces a node under the name {} of this one", node.name);
  }
  return {};
}

void EtcdLease::GiveBack(etcd::Client* client) {
  written_.reset();
  const etcd::LeaseId lease = std::exchange(lease_, etcd::LeaseId::kNone);
  if (lease == etcd::LeaseId::kNone) return;
  const auto body = client->Call("/v3/lease/revoke", etcd::LeaseRequest(lease));
  if (!body.ok()) HM_LOG_DEBUG("etcd: giving the lease back: {}", body.error().message());
}

}  // namespace halfmoon::cluster
