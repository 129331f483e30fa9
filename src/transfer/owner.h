// SPDX-License-Identifier: Apache-2.0
// The owner's end: listens, and answers peers from registered memory.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "transfer/counters.h"
#include "transfer/event_loop.h"
#include "transfer/segment_table.h"
#include "transfer/socket.h"
#include "transfer/ucx.h"

namespace halfmoon::transfer {

class OwnerConnection;

/// Loop thread only, but for Create and the accessors.
class Owner {
 public:
  /// What all its connections share. The pointers outlive the owner.
  struct Context {
    EventLoop* loop = nullptr;
    SegmentTable* segments = nullptr;
    Counters* counters = nullptr;
    Ucx* ucx = nullptr;  ///< nullptr: there is none
    TransferOptions options;
  };

  /// Listens on the paths that are allowed. Errors: kInvalidArgument, kIo.
  static Result<std::unique_ptr<Owner>> Create(const Context& context);
  ~Owner();

  /// Address by path for descriptors; empty where it does not listen.
  const std::string& address(PathKind kind) const { return addresses_[static_cast<size_t>(kind)]; }
  const Context& context() const { return context_; }

  /// Peers that have mapped the segment are told to let go of it.
  void TellGone(uint64_t segment);
  /// Cuts off everybody who is being sent from the segment.
  void Cut(uint64_t segment);
  /// The connection has ended.
  void Drop(OwnerConnection* connection);

 private:
  class Listener;
  explicit Owner(const Context& context);
  Status ListenOn(PathKind kind, FileDescriptor fd);
  /// TCP, or the connections that say over TCP what is to come over UCX.
  Status ListenTcpPath(PathKind kind, int port);
  void Accept(PathKind kind, int listener);

  Context context_;
  FileDescriptor spare_;
  std::array<std::string, kNumPaths> addresses_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unordered_map<OwnerConnection*, std::unique_ptr<OwnerConnection>> connections_;
};

}  // namespace halfmoon::transfer
