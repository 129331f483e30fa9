// SPDX-License-Identifier: Apache-2.0
// A MetaStore in etcd. Keys and values: docs/formats/cluster_etcd.md.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "cluster/etcd_client.h"
#include "cluster/meta_store.h"

namespace halfmoon::cluster {

/// How often etcd is asked, all as parts of the lifetime of leases, so that one lost answer and a
/// member that hangs do not cost a node its lease, and a conductor knows that etcd stands still
/// before the first lease ends.
struct EtcdTimes {
  TimeUs keep_alive_us = 0;    ///< between two signs of life of a node
  TimeUs list_us = 0;          ///< between two lists that a conductor asks for, beside its watch
  TimeUs call_timeout_us = 0;  ///< of one endpoint
  TimeUs retry_us = 0;         ///< after the first failure; doubled after each other
  TimeUs max_retry_us = 0;
  TimeUs trust_us = 0;  ///< see NodeSet::Options
  TimeUs grace_us = 0;

  static EtcdTimes ForLease(std::chrono::seconds ttl);
};

/// Two threads: one keeps the lease and asks for lists, one reads the watch. Both end within about
/// 0.1 s of the destructor's begin, and one more second where a lease is given back to an etcd that
/// does not answer any more. (A name service that hangs can hold them longer.)
class EtcdStore : public MetaStore {
 public:
  /// The options have been checked by OpenMetaStore.
  static std::unique_ptr<EtcdStore> Start(std::vector<etcd::Endpoint> endpoints,
                                          const MetaStoreOptions& options, const EtcdTimes& times);
};

}  // namespace halfmoon::cluster
