// SPDX-License-Identifier: Apache-2.0
#include "cluster/meta_store.h"

#include <utility>

#include "cluster/etcd_client.h"
#include "cluster/etcd_store.h"

namespace halfmoon::cluster {
namespace {

// Below, etcd rounds up by itself (three heartbeats of an election).
constexpr std::chrono::seconds kMinTtl{2};
constexpr std::chrono::seconds kMaxTtl{3600};

}  // namespace

Result<std::unique_ptr<MetaStore>> OpenMetaStore(const std::string& url_list,
                                                 const MetaStoreOptions& options) {
  HM_TRY(CheckName("cluster name", options.cluster));
  if (options.ttl < kMinTtl || options.ttl > kMaxTtl) {
    return Error(ErrorCode::kInvalidArgument,
                 "lifetime of a node's announcement: " + std::to_string(options.ttl.count()) +
                     " s is not from 2 s to one hour");
  }
  HM_ASSIGN(std::vector<etcd::Endpoint> endpoints, etcd::ParseEndpoints(url_list));
  return std::unique_ptr<MetaStore>(
      EtcdStore::Start(std::move(endpoints), options, EtcdTimes::ForLease(options.ttl)));
}

}  // namespace halfmoon::cluster
