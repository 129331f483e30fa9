// SPDX-License-Identifier: Apache-2.0
#include "transfer/ucx_path.h"

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

namespace halfmoon::transfer {

namespace {

constexpr size_t kMaxAvoided = 1024;

}  // namespace

class UcxConnection final : public PeerConnection, public UcxEvents {
 public:
  UcxConnection(UcxPath* path, std::string address, const Context& context, FileDescriptor fd)
      : PeerConnection(context, std::move(fd)), path_(path), address_(std::move(address)) {}
  ~UcxConnection() override {
    if (stall_) context_.loop->CancelTimer(*stall_);
  }

  /// Before Start. Errors: kIo.
  Status MakeWorker() {
    HM_ASSIGN(secret_, RandomSecret());
    HM_ASSIGN(worker_, path_->ucx_->MakeWorker(UcxUse::kReceive, context_.loop, this));
    return {};
  }

  void StartSlice(Job& job, size_t slice) override;
  size_t num_in_flight() const override { return flights_.size(); }
  bool Forget(Job& job) override;
  void ForgetAll() override;

  std::byte* OnMessage(const UcxHeader& header, uint64_t size) override;
  void OnReceived(const UcxHeader& header, const Status& status) override;
  void OnTurn(const Status& status) override;

 protected:
  bool ReadReplies() override;

 private:
  enum class Stage { kAsked, kAnswered, kConfirming };
  struct Flight {
    Job* job = nullptr;     // nullptr: forgotten
    Job* pinned = nullptr;  // forgotten while bytes were on their way into its targets
    size_t slice = 0;
    Stage stage = Stage::kAsked;
    std::vector<bool> came;  // by piece
    size_t missing = 0;      // pieces that are not whole
    int receiving = 0;       // pieces that UCX writes into targets now
    bool confirmed = false;
  };

  bool TakeReply(const Reply& reply);
  void Confirm(uint32_t number, Flight& flight);
  void ConfirmWhole(uint32_t number, Flight& flight);
  void Unpin(Flight& flight);
  void CheckProgress();
  bool Nonsense() {
    return Lose(Loss::kRefused,
                Error(ErrorCode::kUnavailable, "a reply to nothing that was asked"));
  }

  UcxPath* const path_;
  const std::string address_;
  Secret secret_ = {};
  std::unique_ptr<UcxWorker> worker_;
  bool connect_asked_ = false;
  std::map<uint32_t, Flight> flights_;
  uint32_t next_number_ = 1;  // 0 connects
  std::array<char, kReplyBytes> reply_ = {};
  size_t reply_bytes_ = 0;
  std::vector<uint32_t> touched_;  // flights of which something came since the last turn
  Status trouble_;                 // of a receive
  TimeUs progress_us_ = 0;
  std::optional<EventLoop::TimerId> stall_;
};

void UcxConnection::StartSlice(Job& job, size_t slice) {
  if (!std::exchange(connect_asked_, true)) {
    Queue({.type = MessageType::kConnect,
           .segment = path_->ucx_->wire_version(),
           .secret = secret_,
           .worker_address = worker_->address()});
  }
  Request request = {.type = MessageType::kRead,
                     .number = next_number_++,
                     .segment = job.descriptor().segment,
                     .secret = job.descriptor().secret};
  for (const Job::JobPiece& piece : job.PiecesOf(slice)) {
    request.pieces.push_back({.offset = piece.offset, .length = piece.length});
  }
  Queue(request);
  Flight& flight = flights_[request.number];
  flight.job = &job;
  flight.slice = slice;
  flight.missing = request.pieces.size();
  flight.came.resize(request.pieces.size());
  if (flights_.size() == 1) progress_us_ = context_.loop->NowUs();
  if (!stall_) CheckProgress();
}

void UcxConnection::CheckProgress() {
  // The connection tells of a peer that has gone. This is for one whose messages do not arrive.
  const TimeUs silence_us = context_.options->silence_us;
  const TimeUs silent_us = context_.loop->NowUs() - progress_us_;
  if (!flights_.empty() && silent_us >= silence_us) {
    path_->Avoid(address_);
    Lose(Loss::kRefused,
         Error(ErrorCode::kUnavailable,
               "nothing came over UCX for " + std::to_string(silent_us / 1000) + " ms"));
    return;
  }
  if (flights_.empty()) return;
  stall_ = context_.loop->After(std::max<TimeUs>(silence_us - silent_us, 1000), [this] {
    stall_.reset();
    CheckProgress();
  });
}

bool UcxConnection::Forget(Job& job) {
  bool any = false;
  for (auto at = flights_.rbegin(); at != flights_.rend(); ++at) {
    auto& [number, flight] = *at;
    if (flight.job != &job) continue;
    any = true;
    flight.job = nullptr;
    if (flight.receiving > 0) {
      // UCX writes to its targets: the slice comes back when that has ended.
      flight.pinned = &job;
      ++job.pins;
    } else {
      job.ReturnSlice(flight.slice);
    }
    // The owner is to let go of the segment.
    if (flight.stage != Stage::kConfirming) Confirm(number, flight);
  }
  return any;
}

void UcxConnection::ForgetAll() {
  // From here on nothing is written to targets.
  worker_->Stop();
  for (auto at = flights_.rbegin(); at != flights_.rend(); ++at) {
    Flight& flight = at->second;
    if (flight.job != nullptr) flight.job->ReturnSlice(flight.slice);
    if (flight.pinned != nullptr) Unpin(flight);
  }
  flights_.clear();
}

void UcxConnection::Unpin(Flight& flight) {
  Job* const job = std::exchange(flight.pinned, nullptr);
  job->ReturnSlice(flight.slice);
  // It may end the job, and whoever is on the stack may not have done with it.
  context_.loop->Post([sink = path_->context_.sink, job] { sink->Unpinned(*job); });
}

std::byte* UcxConnection::OnMessage(const UcxHeader& header, uint64_t size) {
  if (header.secret != secret_) return nullptr;
  const auto found = flights_.find(header.number);
  // Of one that was forgotten, and may have been confirmed since.
  if (found == flights_.end() || found->second.job == nullptr) return nullptr;
  Flight& flight = found->second;
  const std::span<const Job::JobPiece> pieces = flight.job->PiecesOf(flight.slice);
  if (header.piece >= pieces.size() || flight.came[header.piece] ||
      pieces[header.piece].length != size) {
    trouble_ = Error(ErrorCode::kUnavailable, "a UCX message that nobody asked for");
    return nullptr;
  }
  flight.came[header.piece] = true;
  ++flight.receiving;
  return pieces[header.piece].target;
}

void UcxConnection::OnReceived(const UcxHeader& header, const Status& status) {
  Flight& flight = flights_.at(header.number);
  --flight.receiving;
  --flight.missing;
  if (!status.ok()) trouble_ = status;
  touched_.push_back(header.number);
}

void UcxConnection::OnTurn(const Status& status) {
  if (trouble_.ok()) trouble_ = status;
  if (!trouble_.ok()) {
    Lose(Loss::kBroken, trouble_.error());
    return;
  }
  if (touched_.empty()) return;
  progress_us_ = context_.loop->NowUs();
  for (const uint32_t number : std::exchange(touched_, {})) {
    const auto found = flights_.find(number);
    if (found == flights_.end()) continue;
    Flight& flight = found->second;
    if (flight.pinned != nullptr && flight.receiving == 0) Unpin(flight);
    if (flight.confirmed && flight.receiving == 0) {
      flights_.erase(found);
    } else {
      ConfirmWhole(number, flight);
    }
  }
  context_.events->OnProgress();
}

void UcxConnection::ConfirmWhole(uint32_t number, Flight& flight) {
  if (flight.job != nullptr && flight.missing == 0 && flight.stage == Stage::kAnswered) {
    Confirm(number, flight);
  }
}

void UcxConnection::Confirm(uint32_t number, Flight& flight) {
  flight.stage = Stage::kConfirming;
  Queue({.type = MessageType::kConfirm, .number = number});
}

bool UcxConnection::ReadReplies() {
  while (true) {
    const iovec piece = {.iov_base = reply_.data() + reply_bytes_,
                         .iov_len = kReplyBytes - reply_bytes_};
    const ssize_t bytes = ReceiveMessage(fd_.get(), {&piece, 1});
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == EAGAIN) return true;
    if (bytes < 0) return LoseBySystem(errno, "receive");
    if (bytes == 0) {
      return Lose(Loss::kBroken, Error(ErrorCode::kUnavailable, "the peer closed the connection"));
    }
    reply_bytes_ += static_cast<size_t>(bytes);
    if (reply_bytes_ < kReplyBytes) continue;
    reply_bytes_ = 0;
    const Result<Reply> reply = Reply::Parse(reply_);
    if (!reply.ok()) return Lose(Loss::kRefused, reply.error());
    if (!TakeReply(*reply)) return false;
  }
}

bool UcxConnection::TakeReply(const Reply& reply) {
  progress_us_ = context_.loop->NowUs();
  if (reply.type == MessageType::kConnect) {
    if (reply.status == ReplyStatus::kOk) return true;
    path_->Avoid(address_);
    return Lose(Loss::kRefused, Error(ErrorCode::kUnavailable,
                                      "UCX has no transport in common with the peer, or is of "
                                      "another version there"));
  }
  const auto found = flights_.find(reply.number);
  if (found == flights_.end()) return Nonsense();
  Flight& flight = found->second;
  if (reply.type == MessageType::kRead) {
    // Forgotten ones are confirmed before their answer.
    if (flight.stage == Stage::kAnswered ||
        (flight.job != nullptr && flight.stage != Stage::kAsked))
      return Nonsense();
    if (flight.job == nullptr) return true;
    flight.stage = Stage::kAnswered;
    proven_ = true;
    if (reply.status == ReplyStatus::kOk) {
      ConfirmWhole(reply.number, flight);
      return true;
    }
    if (flight.receiving > 0) return Nonsense();
    Job* const job = flight.job;
    job->ReturnSlice(flight.slice);
    flights_.erase(found);
    context_.events->OnRefused(*job, RefusalOf(reply.status));
    return true;
  }
  if (reply.type != MessageType::kConfirm || flight.stage != Stage::kConfirming) return Nonsense();
  flight.confirmed = true;
  if (flight.receiving > 0) return true;  // a forgotten one
  Job* const job = flight.job;
  const size_t slice = flight.slice;
  flights_.erase(found);
  if (job == nullptr) return true;
  if (reply.status == ReplyStatus::kOk) {
    context_.events->OnSlice(*this, *job, slice);
  } else {
    job->ReturnSlice(slice);
    context_.events->OnRefused(*job, RefusalOf(reply.status));
  }
  return true;
}

bool UcxPath::Avoids(const std::string& address) const {
  const auto found = avoided_.find(address);
  return found != avoided_.end() && context_.loop->NowUs() < found->second;
}

void UcxPath::Avoid(const std::string& address) {
  if (avoided_.size() >= kMaxAvoided) avoided_.clear();
  avoided_[address] = context_.loop->NowUs() + context_.options->idle_us;
}

Result<std::unique_ptr<PeerConnection>> UcxPath::Connect(const std::string& address, Peer* peer) {
  HM_ASSIGN(const Address to, ParseAddress(address));
  HM_ASSIGN(FileDescriptor fd, ConnectTcp(to));
  SetTcpOptions(fd.get(), context_.options->silence_us);
  auto connection =
      std::make_unique<UcxConnection>(this, address, ConnectionContext(peer), std::move(fd));
  HM_TRY(connection->MakeWorker());
  return std::unique_ptr<PeerConnection>(std::move(connection));
}

}  // namespace halfmoon::transfer
