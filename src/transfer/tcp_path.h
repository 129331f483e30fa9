// SPDX-License-Identifier: Apache-2.0
// Reading over TCP: replies come in the order of requests, and their bytes go from the socket right
// into the targets.
#pragma once

#include <memory>
#include <string>

#include "transfer/reader_path.h"

namespace halfmoon::transfer {

/// Loop thread only.
class TcpPath final : public ReaderPath {
 public:
  explicit TcpPath(const PathContext& context) : ReaderPath(PathKind::kTcp, context) {}
  SliceLimits limits() const override {
    return {.bytes = context_.options->slice_bytes, .pieces = kMaxPieces};
  }

 protected:
  size_t MaxConnections() const override {
    return static_cast<size_t>(context_.options->connections_per_peer);
  }
  Result<std::unique_ptr<PeerConnection>> Connect(const std::string& address, Peer* peer) override;
};

}  // namespace halfmoon::transfer
