// SPDX-License-Identifier: Apache-2.0
#include "transfer/tcp_path.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <vector>

namespace halfmoon::transfer {

namespace {

// Received on one connection before others have a turn.
constexpr uint64_t kTurnBytes = 4 << 20;
// Where bytes go that nobody wants any more.
constexpr size_t kScratchBytes = 64 << 10;

class TcpConnection final : public PeerConnection {
 public:
  TcpConnection(const Context& context, FileDescriptor fd)
      : PeerConnection(context, std::move(fd)) {}

  void StartSlice(Job& job, size_t slice) override;
  size_t num_in_flight() const override { return flights_.size(); }
  bool Forget(Job& job) override;
  void ForgetAll() override;

 protected:
  bool ReadReplies() override;

 private:
  struct Flight {
    Job* job = nullptr;  // nullptr: forgotten
    size_t slice = 0;
    uint32_t number = 0;
    uint64_t bytes = 0;
  };
  size_t Targets(std::span<iovec> pieces);
  bool Take(size_t bytes);
  bool TakeReply();
  void FinishSlice();

  std::deque<Flight> flights_;
  uint32_t next_number_ = 0;
  std::array<char, kReplyBytes> reply_ = {};
  size_t reply_bytes_ = 0;
  bool in_payload_ = false;     // of the first flight
  uint64_t payload_bytes_ = 0;  // of it that are here
  std::vector<char> scratch_;
};

void TcpConnection::StartSlice(Job& job, size_t slice) {
  Request request = {.type = MessageType::kRead,
                     .number = next_number_++,
                     .segment = job.descriptor().segment,
                     .secret = job.descriptor().secret};
  for (const Job::JobPiece& piece : job.PiecesOf(slice)) {
    request.pieces.push_back({.offset = piece.offset, .length = piece.length});
  }
  Queue(request);
  flights_.push_back(
      {.job = &job, .slice = slice, .number = request.number, .bytes = job.slice(slice).bytes});
}

bool TcpConnection::Forget(Job& job) {
  bool any = false;
  // From the back, so that slices come back in their order.
  for (auto flight = flights_.rbegin(); flight != flights_.rend(); ++flight) {
    if (flight->job != &job) continue;
    job.ReturnSlice(flight->slice);
    flight->job = nullptr;
    any = true;
  }
  return any;
}

void TcpConnection::ForgetAll() {
  for (auto flight = flights_.rbegin(); flight != flights_.rend(); ++flight) {
    if (flight->job != nullptr) flight->job->ReturnSlice(flight->slice);
  }
  flights_.clear();
}

bool TcpConnection::ReadReplies() {
  std::array<iovec, kMaxPieces + 1> pieces;
  for (uint64_t taken = 0; taken < kTurnBytes;) {
    const size_t count = Targets(pieces);
    const ssize_t bytes = ReceiveMessage(fd_.get(), {pieces.data(), count});
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == EAGAIN) return true;
    if (bytes < 0) return LoseBySystem(errno, "receive");
    if (bytes == 0) {
      return Lose(Loss::kBroken, Error(ErrorCode::kUnavailable, "the peer closed the connection"));
    }
    taken += static_cast<uint64_t>(bytes);
    if (!Take(static_cast<size_t>(bytes))) return false;
  }
  return true;
}

size_t TcpConnection::Targets(std::span<iovec> pieces) {
  size_t count = 0;
  if (in_payload_) {
    const Flight& flight = flights_.front();
    uint64_t skip = payload_bytes_;
    if (flight.job == nullptr) {
      scratch_.resize(kScratchBytes);
      const uint64_t left = flight.bytes - payload_bytes_;
      pieces[count++] = {.iov_base = scratch_.data(), .iov_len = std::min(left, kScratchBytes)};
      if (left > kScratchBytes) return count;
    } else {
      for (const Job::JobPiece& piece : flight.job->PiecesOf(flight.slice)) {
        const uint64_t skipped = std::min(skip, piece.length);
        skip -= skipped;
        if (skipped == piece.length) continue;
        pieces[count++] = {.iov_base = piece.target + skipped, .iov_len = piece.length - skipped};
      }
    }
  }
  // The next reply comes right behind: one call for both.
  const size_t have = in_payload_ ? 0 : reply_bytes_;
  pieces[count++] = {.iov_base = reply_.data() + have, .iov_len = kReplyBytes - have};
  return count;
}

bool TcpConnection::Take(size_t bytes) {
  if (in_payload_) {
    const uint64_t left = flights_.front().bytes - payload_bytes_;
    const uint64_t mine = std::min<uint64_t>(left, bytes);
    payload_bytes_ += mine;
    bytes -= mine;
    if (mine == left) FinishSlice();
  }
  if (bytes == 0) return true;
  reply_bytes_ += bytes;
  return reply_bytes_ < kReplyBytes || TakeReply();
}

bool TcpConnection::TakeReply() {
  reply_bytes_ = 0;
  const Result<Reply> reply = Reply::Parse(reply_);
  if (!reply.ok()) return Lose(Loss::kRefused, reply.error());
  if (flights_.empty() || reply->type != MessageType::kRead ||
      reply->number != flights_.front().number ||
      (reply->status == ReplyStatus::kOk && reply->length != flights_.front().bytes)) {
    return Lose(Loss::kRefused,
                Error(ErrorCode::kUnavailable, "a reply to nothing that was asked"));
  }
  if (reply->status == ReplyStatus::kOk) {
    in_payload_ = true;
    payload_bytes_ = 0;
    return true;
  }
  const Flight flight = flights_.front();
  flights_.pop_front();
  proven_ = true;
  if (flight.job == nullptr) return true;
  flight.job->ReturnSlice(flight.slice);
  context_.events->OnRefused(*flight.job, RefusalOf(reply->status));
  return true;
}

void TcpConnection::FinishSlice() {
  in_payload_ = false;
  const Flight flight = flights_.front();
  flights_.pop_front();
  proven_ = true;
  if (flight.job != nullptr) context_.events->OnSlice(*this, *flight.job, flight.slice);
}

}  // namespace

Result<std::unique_ptr<PeerConnection>> TcpPath::Connect(const std::string& address, Peer* peer) {
  HM_ASSIGN(const Address to, ParseAddress(address));
  HM_ASSIGN(FileDescriptor fd, ConnectTcp(to));
  SetTcpOptions(fd.get(), context_.options->silence_us);
  return std::unique_ptr<PeerConnection>(
      std::make_unique<TcpConnection>(ConnectionContext(peer), std::move(fd)));
}

}  // namespace halfmoon::transfer
