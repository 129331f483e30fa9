// SPDX-License-Identifier: Apache-2.0
// OwnerConnection: what goes out over UCX.
#include <utility>

#include "base/log.h"
#include "transfer/owner_connection.h"

namespace halfmoon::transfer {

ReplyStatus OwnerConnection::ConnectUcx(const Request& request) {
  Ucx* const ucx = context_.ucx;
  if (kind_ != PathKind::kUcx || ucx_ != nullptr || request.segment != ucx->wire_version()) {
    return ReplyStatus::kNoWay;
  }
  Result<std::unique_ptr<UcxWorker>> worker = ucx->MakeWorker(UcxUse::kSend, context_.loop, this);
  const Status status =
      worker.ok() ? (*worker)->Connect(request.worker_address) : Status(worker.error());
  if (!status.ok()) {
    HM_LOG_DEBUG("transfer: no UCX to a reader: {}", status.error().message());
    return ReplyStatus::kNoWay;
  }
  ucx_ = std::move(worker).value();
  ucx_secret_ = request.secret;
  return ReplyStatus::kOk;
}

ReplyStatus OwnerConnection::SendOverUcx(const Request& request, SegmentPin pin) {
  if (ucx_ == nullptr) return ReplyStatus::kNoWay;
  context_.counters->path(kind_).sent_bytes += request.TotalBytes();
  const std::span<const std::byte> memory = pin.memory();
  // Until the reader has confirmed that it has all, and until UCX has let go of it.
  leases_[request.number] = pin.Copy();
  const uint64_t id = next_ucx_sends_++;
  ucx_sends_.emplace(id, UcxSends{.pin = std::move(pin), .left = request.pieces.size()});
  UcxHeader header = {.secret = ucx_secret_, .number = request.number};
  for (const Piece& piece : request.pieces) {
    ucx_->Send(header, memory.subspan(piece.offset, piece.length), [this, id](const Status&) {
      const auto found = ucx_sends_.find(id);
      if (--found->second.left == 0) ucx_sends_.erase(found);
    });
    ++header.piece;
  }
  return ReplyStatus::kOk;
}

void OwnerConnection::OnTurn(const Status& status) {
  if (!IsOpen()) return;
  if (!status.ok()) {
    HM_LOG_DEBUG("transfer: {}", status.error().message());
    return Close("UCX has failed");
  }
  used_us_ = context_.loop->NowUs();
  Work();
}

}  // namespace halfmoon::transfer
