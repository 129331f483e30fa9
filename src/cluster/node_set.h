// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: the nodes that a store lists, as known from its answers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/etcd_messages.h"

namespace halfmoon::cluster {

/// Follows the keys of nodes by whole lists and by events between them. Nobody is removed while the
/// store is away, and none of those that were known then before they had time to announce
/// themselves again: an etcd that stood still ends all leases the moment it goes on, and one that
/// lost its disk knows nobody. Time comes in with every call. Not thread-safe.
class NodeSet {
 public:
  struct Options {
    /// A store that was not heard of for longer was away, whether or not somebody noticed. Less
    /// than the time after which leases end.
    TimeUs trust_us = 0;
    TimeUs grace_us = 0;  ///< to announce oneself again
  };

  explicit NodeSet(const Options& options) : options_(options) {}

  /// The store was asked and did not answer.
  void OnFailure() { failing_ = true; }

  /// The whole list, asked for when revision() was `asked_at`. True where a watch that runs has to
  /// be begun again after revision(): the store was away or is another one, or the watch does not
  /// tell what lists tell. Errors: kCorrupt (more
  /// than kMaxNodes); nothing has changed then.
  Result<bool> OnList(const etcd::RangeAnswer& list, int64_t asked_at, TimeUs now_us);

  /// Events of a watch that began after revision().
  Status OnEvents(const etcd::WatchAnswer& answer, TimeUs now_us);

  bool known() const { return known_; }           ///< a list was there
  bool reachable() const { return !failing_; }    ///< as far as known
  int64_t revision() const { return revision_; }  ///< what is known is as of then
  /// Sorted, each once.
  std::vector<std::string> Addresses() const;
  /// Records that could not be read, each told once.
  std::vector<std::string> TakeComplaints();

 private:
  void Put(const etcd::KeyValue& kv);
  void Remove(const std::string& key, TimeUs now_us);
  bool Trusted(TimeUs now_us) const;

  const Options options_;
  std::map<std::string, std::string> addresses_;  ///< by key
  std::set<std::string> unreadable_;              ///< keys
  std::vector<std::string> complaints_;
  std::string cluster_id_;
  int64_t revision_ = 0;
  uint64_t num_events_ = 0;
  /// num_events_ when a list brought what no event had; the events should follow.
  std::optional<uint64_t> events_due_after_;
  bool known_ = false;
  bool failing_ = false;
  TimeUs heard_us_ = 0;    ///< last list
  TimeUs settled_us_ = 0;  ///< until then nobody is removed
};

}  // namespace halfmoon::cluster
