// SPDX-License-Identifier: Apache-2.0
#include "cluster/etcd_store.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "cluster/etcd_lease.h"
#include "cluster/node_record.h"
#include "cluster/node_set.h"

namespace halfmoon::cluster {
namespace {

using std::chrono::microseconds;

class EtcdStoreImpl final : public EtcdStore {
 public:
  EtcdStoreImpl(std::vector<etcd::Endpoint> endpoints, const MetaStoreOptions& options,
                const EtcdTimes& times)
      : options_(options),
        times_(times),
        clock_(options.clock != nullptr ? *options.clock : own_clock_),
        prefix_(NodePrefix(options.cluster)),
        endpoints_(std::move(endpoints)),
        nodes_({.trust_us = times.trust_us, .grace_us = times.grace_us}),
        started_us_(clock_.NowUs()),
        keeper_([this] { Keep(); }),
        watcher_([this] { WatchForever(); }) {}

  ~EtcdStoreImpl() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    watcher_.join();
    keeper_.join();
  }

  Status Announce(NodeAnnouncement node) override {
    HM_TRY(CheckName("node name", node.name));
    HM_TRY(CheckAddress(node.address).WithContext("node '" + node.name + "'"));
    const std::lock_guard lock(mutex_);
    announced_ = std::move(node);
    keep_now_ = true;
    changed_.notify_all();
    return {};
  }

  Status Follow(OnNodes on_nodes) override {
    const std::lock_guard lock(mutex_);
    if (on_nodes_) return Error(ErrorCode::kInvalidArgument, "the nodes are followed already");
    on_nodes_ = std::move(on_nodes);
    keep_now_ = true;
    changed_.notify_all();
    return {};
  }

  std::string state() const override {
    const std::lock_guard lock(mutex_);
    if (away_) {
      const TimeUs seconds = (clock_.NowUs() - away_since_us_) / 1'000'000;
      return "away for " + std::to_string(seconds) + " s: " + *away_;
    }
    return connected_ ? "connected" : "connecting";
  }

 private:
  bool stopped() const {
    const std::lock_guard lock(mutex_);
    return stopped_;
  }

  etcd::ClientOptions ClientOptions(std::function<bool()> ended) const {
    return {.endpoints = endpoints_,
            .tls_ca_file = options_.tls_ca_file,
            .call_timeout_us = times_.call_timeout_us,
            .clock = &clock_,
            .ended = std::move(ended)};
  }

  void Keep();
  Status KeepOnce(etcd::Client* client, EtcdLease* lease);
  Status ReadList(etcd::Client* client);
  void Report(const Status& status);
  void GiveBack(EtcdLease* lease);

  void WatchForever();
  Error WatchOnce(etcd::Client* client, int64_t revision, uint64_t epoch);
  void Publish();

  const MetaStoreOptions options_;
  const EtcdTimes times_;
  const MonotonicClock own_clock_;
  const Clock& clock_;
  const std::string prefix_;
  const std::vector<etcd::Endpoint> endpoints_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // GUARDED_BY(mutex_) all of these:
  bool stopped_ = false;
  bool keep_now_ = false;  ///< the keeper is not to wait
  std::optional<NodeAnnouncement> announced_;
  OnNodes on_nodes_;  ///< set once
  NodeSet nodes_;
  uint64_t num_lists_ = 0;
  uint64_t epoch_ = 0;  ///< a watch of an earlier one is to end
  bool connected_ = false;
  std::optional<std::string> away_;
  TimeUs away_since_us_ = 0;
  const TimeUs started_us_;

  std::mutex publish_mutex_;                           ///< taken before mutex_
  std::optional<std::vector<std::string>> published_;  ///< GUARDED_BY(publish_mutex_)

  std::thread keeper_;
  std::thread watcher_;
};

void EtcdStoreImpl::Keep() {
  etcd::Client client(ClientOptions([this] { return stopped(); }));
  EtcdLease lease(prefix_, options_.ttl);
  TimeUs retry_us = times_.retry_us;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || announced_ || on_nodes_; });
    if (stopped_) return;
  }
  for (;;) {
    const Status status = KeepOnce(&client, &lease);
    if (stopped()) break;
    Report(status);
    std::unique_lock lock(mutex_);
    TimeUs wait_us = on_nodes_ ? times_.list_us : times_.keep_alive_us;
    if (status.ok()) {
      retry_us = times_.retry_us;
    } else {
      wait_us = retry_us;
      retry_us = std::min(2 * retry_us, times_.max_retry_us);
    }
    changed_.wait_for(lock, microseconds(wait_us), [this] { return stopped_ || keep_now_; });
    if (stopped_) break;
  }
  GiveBack(&lease);
}

Status EtcdStoreImpl::KeepOnce(etcd::Client* client, EtcdLease* lease) {
  std::optional<NodeAnnouncement> node;
  bool follow = false;
  {
    const std::lock_guard lock(mutex_);
    keep_now_ = false;
    node = announced_;
    follow = static_cast<bool>(on_nodes_);
  }
  const Status kept = node ? lease->Keep(client, *node) : Status();
  const Status listed = follow ? ReadList(client) : Status();
  return kept.ok() ? listed : kept;
}

Status EtcdStoreImpl::ReadList(etcd::Client* client) {
  const uint64_t failures = client->num_failures();
  int64_t asked_at = 0;
  {
    const std::lock_guard lock(mutex_);
    asked_at = nodes_.revision();
  }
  const auto body =
      client->Call("/v3/kv/range", etcd::PrefixRequest(prefix_, int64_t{kMaxNodes} + 1));
  auto list = body.ok() ? etcd::ParseRange(*body).WithContext("list of nodes")
                        : Result<etcd::RangeAnswer>(body.error());
  std::vector<std::string> complaints;
  {
    const std::lock_guard lock(mutex_);
    if (!list.ok() || client->num_failures() != failures) nodes_.OnFailure();
    if (!list.ok()) return list.error();
    HM_ASSIGN(const bool restart, nodes_.OnList(*list, asked_at, clock_.NowUs()));
    if (restart) ++epoch_;
    ++num_lists_;
    complaints = nodes_.TakeComplaints();
  }
  changed_.notify_all();
  for (const std::string& complaint : complaints) HM_LOG_WARN("etcd: not a node: {}", complaint);
  Publish();
  return {};
}

void EtcdStoreImpl::Report(const Status& status) {
  const std::lock_guard lock(mutex_);
  const TimeUs now_us = clock_.NowUs();
  if (!status.ok()) {
    if (!away_) {
      away_since_us_ = connected_ ? now_us : started_us_;
      HM_LOG_WARN("etcd is away: {}; the nodes that are known stay, and it is tried again",
                  status.error().message());
    }
    away_ = status.error().message();
    return;
  }
  if (away_) HM_LOG_INFO("etcd is back after {} s", (now_us - away_since_us_) / 1'000'000);
  away_.reset();
  connected_ = true;
}

void EtcdStoreImpl::GiveBack(EtcdLease* lease) {
  {
    const std::lock_guard lock(mutex_);
    if (away_) return;  // it ends by itself
  }
  const TimeUs until_us = clock_.NowUs() + 1'000'000;
  etcd::Client client(ClientOptions([this, until_us] { return clock_.NowUs() >= until_us; }));
  lease->GiveBack(&client);
}

void EtcdStoreImpl::WatchForever() {
  uint64_t epoch = 0;
  etcd::Client client(ClientOptions([this, &epoch] {
    const std::lock_guard lock(mutex_);
    return stopped_ || epoch != epoch_;
  }));
  TimeUs retry_us = times_.retry_us;
  uint64_t lists_seen = 0;
  for (;;) {
    int64_t revision = 0;
    {
      std::unique_lock lock(mutex_);
      // After a failure a list has to say that etcd is there, and from where to go on.
      changed_.wait(lock, [&] {
        return stopped_ || (nodes_.known() && nodes_.reachable() && num_lists_ > lists_seen);
      });
      if (stopped_) return;
      revision = nodes_.revision();
      epoch = epoch_;
    }
    const TimeUs begin_us = clock_.NowUs();
    const Error error = WatchOnce(&client, revision, epoch);
    std::unique_lock lock(mutex_);
    if (stopped_) return;
    if (epoch != epoch_) continue;  // the list that says so is the newest
    HM_LOG_DEBUG("etcd: watch of nodes: {}", error.message());
    const TimeUs now_us = clock_.NowUs();
    if (now_us - begin_us > times_.max_retry_us) retry_us = times_.retry_us;
    changed_.wait_for(lock, microseconds(retry_us), [this] { return stopped_; });
    retry_us = std::min(2 * retry_us, times_.max_retry_us);
    lists_seen = num_lists_;
    keep_now_ = true;
    changed_.notify_all();
  }
}

Error EtcdStoreImpl::WatchOnce(etcd::Client* client, int64_t revision, uint64_t epoch) {
  return client->Watch(
      etcd::WatchRequest(prefix_, revision + 1), [&](std::string_view line) -> Status {
        HM_ASSIGN(const etcd::WatchAnswer answer, etcd::ParseWatchLine(line));
        if (answer.cancelled) {
          return Error(ErrorCode::kUnavailable, answer.compact_revision > 0
                                                    ? "what came after the last list is compacted"
                                                    : "ended: " + answer.cancel_reason);
        }
        std::vector<std::string> complaints;
        {
          const std::lock_guard lock(mutex_);
          if (stopped_ || epoch != epoch_) {
            return Error(ErrorCode::kCancelled, "of another epoch");
          }
          HM_TRY(nodes_.OnEvents(answer, clock_.NowUs()));
          complaints = nodes_.TakeComplaints();
        }
        for (const std::string& complaint : complaints) {
          HM_LOG_WARN("etcd: not a node: {}", complaint);
        }
        Publish();
        return {};
      });
}

void EtcdStoreImpl::Publish() {
  const std::lock_guard publishing(publish_mutex_);
  std::vector<std::string> addresses;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || !nodes_.known()) return;
    addresses = nodes_.Addresses();
  }
  if (published_ == addresses) return;
  published_ = addresses;
  on_nodes_(std::move(addresses));  // set once, before the first list
}

}  // namespace

EtcdTimes EtcdTimes::ForLease(std::chrono::seconds ttl) {
  const TimeUs ttl_us = std::chrono::microseconds(ttl).count();
  return {.keep_alive_us = ttl_us / 3,
          .list_us = ttl_us / 4,
          .call_timeout_us = std::min<TimeUs>(ttl_us / 4, 5'000'000),
          .retry_us = 100'000,
          .max_retry_us = std::min<TimeUs>(ttl_us / 4, 2'000'000),
          .trust_us = ttl_us / 2,
          .grace_us = ttl_us};
}

std::unique_ptr<EtcdStore> EtcdStore::Start(std::vector<etcd::Endpoint> endpoints,
                                            const MetaStoreOptions& options,
                                            const EtcdTimes& times) {
  return std::make_unique<EtcdStoreImpl>(std::move(endpoints), options, times);
}

}  // namespace halfmoon::cluster
