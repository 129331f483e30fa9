// SPDX-License-Identifier: Apache-2.0
// The peers of one path, by address. Paths differ in their connections only.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "transfer/counters.h"
#include "transfer/path.h"
#include "transfer/peer.h"
#include "transfer/ucx.h"
#include "transfer/workers.h"

namespace halfmoon::transfer {

/// What paths work with. The pointers outlive them.
struct PathContext {
  EventLoop* loop = nullptr;
  PathSink* sink = nullptr;
  Counters* counters = nullptr;
  Workers* workers = nullptr;
  const TransferOptions* options = nullptr;
  Ucx* ucx = nullptr;  ///< nullptr: there is none
};

/// Loop thread only.
class ReaderPath : public Path {
 public:
  ReaderPath(PathKind kind, const PathContext& context) : kind_(kind), context_(context) {}

  PathKind kind() const final { return kind_; }
  void Add(Job& job) final;
  void More(Job& job) final;
  void Remove(Job& job, Suspicion suspicion) final;

 protected:
  void DropPeers() { peers_.clear(); }
  virtual size_t MaxConnections() const = 0;
  virtual Result<std::unique_ptr<PeerConnection>> Connect(const std::string& address,
                                                          Peer* peer) = 0;
  PeerConnection::Context ConnectionContext(Peer* peer) const {
    return {.loop = context_.loop, .events = peer, .kind = kind_, .options = context_.options};
  }

  const PathKind kind_;
  const PathContext context_;

 private:
  std::map<std::string, std::unique_ptr<Peer>> peers_;
};

}  // namespace halfmoon::transfer
