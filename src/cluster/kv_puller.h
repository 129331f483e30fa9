// SPDX-License-Identifier: Apache-2.0
// The receiving end of KV between nodes: blocks of a sequence that other nodes have, or are just
// computing, as a store::BlockSource for the engine here. The other node tells which ranges of its
// pages are complete; they are read straight into the pages that the engine has set aside.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cluster/messages.h"
#include "net/channel.h"
#include "store/block_store.h"
#include "transfer/transfer.h"

namespace halfmoon::cluster {

class PullState;

/// What pages look like here; the other node's have to look the same.
struct PageShape {
  size_t layer_bytes = 0;
  int num_layers = 0;
};

/// All pulls of a node. Thread-safe. The services outlive it.
class KvPuller {
 public:
  KvPuller(net::ChannelService* channels, transfer::TransferEngine* transfers, const Clock* clock,
           const PageShape& shape);
  /// Ends every pull. The sources stay valid and fail from then on.
  ~KvPuller();
  KvPuller(const KvPuller&) = delete;
  KvPuller& operator=(const KvPuller&) = delete;

  /// Begins to pull from all of them. keys: of the sequence's blocks from the first on; what specs
  /// name beyond them is left. A block that does not come, for whatever reason, fails with that
  /// reason: kUnavailable (the node is gone, or its pages are), kDeadlineExceeded (nothing came for
  /// the spec's patience_us), kCorrupt, kNotFound (it does not have it).
  std::shared_ptr<store::BlockSource> Pull(std::span<const SourceSpec> specs,
                                           std::span<const kv::BlockKey> keys);

  /// At which KV arrives here, as measured over the reads of late; 0: none yet.
  double bytes_per_s() const;

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace halfmoon::cluster
