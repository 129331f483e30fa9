// SPDX-License-Identifier: Apache-2.0
// Reading within one host: the owner's memory file is mapped, and workers copy from it. The owner
// is asked before a copy (lease) and after it (confirm), so that bytes count only where the segment
// has stayed for all of the copy.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "transfer/reader_path.h"

namespace halfmoon::transfer {

class ShmConnection;

/// Loop thread only.
class ShmPath final : public ReaderPath {
 public:
  explicit ShmPath(const PathContext& context) : ReaderPath(PathKind::kSharedMemory, context) {}
  ~ShmPath() override { DropPeers(); }  // their connections leave the map below
  SliceLimits limits() const override {
    return {.bytes = context_.options->shared_memory_slice_bytes, .pieces = kMaxSlicePieces};
  }

 protected:
  size_t MaxConnections() const override { return 1; }
  Result<std::unique_ptr<PeerConnection>> Connect(const std::string& address, Peer* peer) override;

 private:
  friend class ShmConnection;
  // Nothing of them goes over the socket, so there may be many.
  static constexpr size_t kMaxSlicePieces = 4096;

  // Connections that a copy may report to.
  std::map<uint64_t, ShmConnection*> connections_;
  uint64_t next_connection_ = 0;
};

}  // namespace halfmoon::transfer
