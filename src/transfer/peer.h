// SPDX-License-Identifier: Apache-2.0
// One peer over one path: its connections, and the jobs that take turns on them.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transfer/path.h"
#include "transfer/peer_connection.h"

namespace halfmoon::transfer {

/// Connections are opened when there is more to read than those that are there have room for, and
/// opened anew where they broke; slices on their way are then asked for again. Loop thread only.
class Peer final : public PeerEvents {
 public:
  /// Opens a connection, which reports to the peer. Errors: kUnavailable, kInvalidArgument.
  using Connector = std::function<Result<std::unique_ptr<PeerConnection>>(Peer*)>;
  struct Context {
    EventLoop* loop = nullptr;
    PathSink* sink = nullptr;
    PathKind kind = PathKind::kTcp;
    std::string address;
    size_t max_connections = 1;
    size_t max_in_flight = 16;  ///< slices on a connection
    TimeUs idle_us = 0;
    Connector connect;
    std::function<void(const std::string& address)> on_idle;  ///< may destroy the peer
  };

  explicit Peer(Context context) : context_(std::move(context)) {}
  ~Peer() override;

  void Add(Job& job);
  void More() { Fill(); }
  void Remove(Job& job, Suspicion suspicion);

  void OnReady(PeerConnection& connection) override;
  void OnProgress() override { Fill(); }
  void OnSlice(PeerConnection& connection, Job& job, size_t slice) override;
  void OnRefused(Job& job, const Error& error) override;
  void OnUnfit(Job& job, const Error& error) override;
  void OnLost(PeerConnection& connection, Loss loss, const Error& error) override;

 private:
  void Fill();
  Job* NextWithMissing();
  PeerConnection* LeastBusy() const;
  void Open();
  void Drop(PeerConnection& connection);
  bool HasReady() const;
  bool IsOpening() const;
  void RetryAfter(TimeUs delay_us);
  void FailAll(const Error& error);
  Error Named(const Error& error) const;
  void UpdateIdle();

  const Context context_;
  std::deque<Job*> jobs_;  // whose turn it is comes first
  std::vector<std::unique_ptr<PeerConnection>> connections_;
  int failures_ = 0;   // connections lost since a slice last arrived that had never brought one
  bool full_ = false;  // the peer takes no more connections than there are
  std::optional<EventLoop::TimerId> retry_;
  std::optional<EventLoop::TimerId> idle_;
};

}  // namespace halfmoon::transfer
