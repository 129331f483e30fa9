// SPDX-License-Identifier: Apache-2.0
#include "cluster/node_set.h"

#include <algorithm>
#include <set>
#include <utility>

#include "cluster/node_record.h"

namespace halfmoon::cluster {

bool NodeSet::Trusted(TimeUs now_us) const {
  return !failing_ && now_us - heard_us_ <= options_.trust_us && now_us >= settled_us_;
}

Result<bool> NodeSet::OnList(const etcd::RangeAnswer& list, int64_t asked_at, TimeUs now_us) {
  if (list.kvs.size() > kMaxNodes) {
    return Error(ErrorCode::kCorrupt, "more than " + std::to_string(kMaxNodes) + " nodes");
  }
  // Reads never go back in one history, so a revision below one that was known when the list was
  // asked for is that of another store: restored from a copy, or made anew.
  const bool other_store =
      known_ && (list.header.cluster_id != cluster_id_ || list.header.revision < asked_at);
  const bool was_away = known_ && (failing_ || now_us - heard_us_ > options_.trust_us);
  if (other_store || was_away) settled_us_ = now_us + options_.grace_us;
  failing_ = false;
  heard_us_ = now_us;
  const bool watch_silent = events_due_after_ == num_events_;
  events_due_after_.reset();
  const bool restart = other_store || was_away || watch_silent;
  // The watch was faster than this list.
  if (known_ && !other_store && list.header.revision < revision_) return restart;

  const std::vector<std::string> before = Addresses();
  std::set<std::string_view> listed;
  for (const etcd::KeyValue& kv : list.kvs) {
    listed.insert(kv.key);
    Put(kv);
  }
  std::vector<std::string> gone;
  for (const auto& [key, address] : addresses_) {
    if (!listed.contains(key)) gone.push_back(key);
  }
  for (const std::string& key : gone) Remove(key, now_us);
  std::erase_if(unreadable_, [&](const std::string& key) { return !listed.contains(key); });
  if (known_ && !restart && Addresses() != before) events_due_after_ = num_events_;
  revision_ = list.header.revision;
  cluster_id_ = list.header.cluster_id;
  known_ = true;
  return restart;
}

Status NodeSet::OnEvents(const etcd::WatchAnswer& answer, TimeUs now_us) {
  for (const etcd::WatchEvent& event : answer.events) {
    ++num_events_;
    if (event.kv.mod_revision <= revision_) continue;  // a list had it already
    if (event.deleted) {
      unreadable_.erase(event.kv.key);
      Remove(event.kv.key, now_us);
    } else {
      if (addresses_.size() + unreadable_.size() >= kMaxNodes &&
          !addresses_.contains(event.kv.key)) {
        return Error(ErrorCode::kCorrupt, "more than " + std::to_string(kMaxNodes) + " nodes");
      }
      Put(event.kv);
    }
  }
  // Events of one revision come together, so the last one's is known wholly.
  for (const etcd::WatchEvent& event : answer.events) {
    revision_ = std::max(revision_, event.kv.mod_revision);
  }
  return {};
}

void NodeSet::Put(const etcd::KeyValue& kv) {
  auto address = ParseNodeRecord(kv.value);
  if (address.ok()) {
    unreadable_.erase(kv.key);
    addresses_[kv.key] = std::move(address).value();
    return;
  }
  // Whoever wrote that, it does not say that the node is gone: what was known of it stays.
  if (unreadable_.insert(kv.key).second) {
    std::string shown = kv.key.substr(0, 300);
    std::replace_if(shown.begin(), shown.end(), [](char c) { return c < 0x20 || c == 0x7f; }, '?');
    complaints_.push_back("key " + shown + ": " + address.error().message());
  }
}

void NodeSet::Remove(const std::string& key, TimeUs now_us) {
  // Otherwise the first list after settled_us_ takes it out, unless it is there again.
  if (Trusted(now_us)) addresses_.erase(key);
}

std::vector<std::string> NodeSet::Addresses() const {
  std::set<std::string> addresses;
  for (const auto& [key, address] : addresses_) addresses.insert(address);
  return {addresses.begin(), addresses.end()};
}

std::vector<std::string> NodeSet::TakeComplaints() { return std::exchange(complaints_, {}); }

}  // namespace halfmoon::cluster
