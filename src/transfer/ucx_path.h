// SPDX-License-Identifier: Apache-2.0
// Reading over UCX: a connection as over TCP says what is wanted, and its bytes come as UCX
// messages right into the targets. UCX does not say when a peer in shared memory has gone: the
// connection does. Bytes count once the owner has confirmed that the segment has stayed until all
// were here.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include "transfer/reader_path.h"
#include "transfer/ucx.h"
#include "transfer/wire.h"

namespace halfmoon::transfer {

/// Loop thread only.
class UcxPath final : public ReaderPath {
 public:
  /// `ucx` outlives the path.
  UcxPath(const PathContext& context, Ucx* ucx) : ReaderPath(PathKind::kUcx, context), ucx_(ucx) {}
  ~UcxPath() override { DropPeers(); }
  SliceLimits limits() const override {
    return {
        .bytes = std::min<uint64_t>(context_.options->shared_memory_slice_bytes, kMaxRequestBytes),
        .pieces = kMaxPieces};
  }
  bool Avoids(const std::string& address) const override;

 protected:
  size_t MaxConnections() const override { return 1; }
  Result<std::unique_ptr<PeerConnection>> Connect(const std::string& address, Peer* peer) override;

 private:
  friend class UcxConnection;
  /// UCX does not lead there; others are asked first for a while.
  void Avoid(const std::string& address);

  Ucx* const ucx_;
  std::map<std::string, TimeUs> avoided_;  // until when
};

}  // namespace halfmoon::transfer
