// SPDX-License-Identifier: Apache-2.0
#include "transfer/owner_connection.h"

#include <netinet/in.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "net/digest.h"

namespace halfmoon::transfer {

namespace {

// Input that is read before it is handled: any request fits several times.
constexpr size_t kInputBytes = 16 << 10;
constexpr TimeUs kDrainUs = 10'000'000;
constexpr int kMaxSegments = 64;  // opened by one reader

}  // namespace

OwnerConnection::OwnerConnection(Owner* owner, PathKind kind, FileDescriptor fd, PeerHost host)
    : owner_(owner),
      context_(owner->context()),
      kind_(kind),
      fd_(std::move(fd)),
      zero_copy_(
          kind == PathKind::kTcp &&
          (context_.options.zero_copy == ZeroCopy::kAlways ||
           (context_.options.zero_copy == ZeroCopy::kToOtherHosts && host == PeerHost::kOther))) {}

OwnerConnection::~OwnerConnection() {
  if (watch_) context_.loop->Unwatch(*watch_);
  if (timer_) context_.loop->CancelTimer(*timer_);
}

Status OwnerConnection::Start() {
  hello_.path = kind_;
  HM_ASSIGN(hello_.nonce, RandomSecret());
  if (zero_copy_) {
    const int on = 1;
    zero_copy_ = setsockopt(fd_.get(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0;
  }
  events_ = EPOLLIN;
  HM_ASSIGN(watch_, context_.loop->Watch(fd_.get(), events_, this));
  timer_ = context_.loop->After(context_.options.connect_timeout_us, [this] { CheckIdle(); });
  return {};
}

void OwnerConnection::CheckIdle() {
  timer_.reset();
  // Readers close what they do not use much earlier; this is for those that are gone for good.
  const TimeUs idle_us = 5 * context_.options.idle_us;
  const TimeUs unused_us = context_.loop->NowUs() - used_us_;
  if (state_ != State::kReady) return Close("it did not prove the token in time");
  if (unused_us >= idle_us && out_.empty() && leases_.empty() && ucx_sends_.empty())
    return Close("it is not used");
  timer_ = context_.loop->After(std::max<TimeUs>(idle_us - unused_us, 1'000'000),
                                [this] { CheckIdle(); });
}

bool OwnerConnection::Holds(uint64_t segment) const {
  auto is_it = [&](const SegmentPin& pin) { return pin.segment() == segment; };
  return std::any_of(out_.begin(), out_.end(), [&](const Outgoing& o) { return is_it(o.pin); }) ||
         std::any_of(leases_.begin(), leases_.end(), [&](auto& l) { return is_it(l.second); }) ||
         std::any_of(zero_copies_.begin(), zero_copies_.end(),
                     [&](auto& z) { return is_it(z.second); }) ||
         std::any_of(ucx_sends_.begin(), ucx_sends_.end(),
                     [&](auto& sends) { return is_it(sends.second.pin); });
}

void OwnerConnection::TellGone(uint64_t segment) {
  if (state_ != State::kReady || opened_.erase(segment) == 0) return;
  const auto bytes = Reply{.type = MessageType::kGone, .length = segment}.Format();
  Send({.head = std::string(bytes.data(), bytes.size())});
  UpdateEvents();
}

void OwnerConnection::Close(std::string_view why) {
  if (!IsOpen()) return;
  HM_LOG_DEBUG("transfer: {} connection of a reader ends: {}", PathName(kind_), why);
  out_.clear();
  leases_.clear();
  if (ucx_ != nullptr) ucx_->Stop();
  ucx_sends_.clear();
  if (zero_copies_.empty()) return End();
  // The kernel still sends from memory that its owner wants back, and would go on with that after
  // close(). Disconnecting instead resets the connection, drops what is queued, and reports it.
  state_ = State::kDraining;
  sockaddr unspecified = {};
  unspecified.sa_family = AF_UNSPEC;
  ::connect(fd_.get(), &unspecified, sizeof(unspecified));
  if (timer_) context_.loop->CancelTimer(*timer_);
  timer_ = context_.loop->After(kDrainUs, [this] {
    timer_.reset();
    HM_LOG_WARN("transfer: the kernel does not let go of memory of a connection that has ended");
    End();
  });
  UpdateEvents();
  TakeCompletions();
}

void OwnerConnection::End() {
  state_ = State::kClosed;
  zero_copies_.clear();
  owner_->Drop(this);
}

void OwnerConnection::OnEvents(uint32_t events) {
  if ((events & EPOLLERR) != 0) TakeCompletions();
  if (!IsOpen()) return;
  // Completions raise EPOLLERR too, without an error.
  if ((events & EPOLLERR) != 0 && SocketError(fd_.get()) != 0) return Close("it broke");
  if ((events & EPOLLIN) != 0) Read();
  if (IsOpen() && (events & EPOLLHUP) != 0) Close("the reader has closed it");
  if (IsOpen()) Work();
}

void OwnerConnection::Work() {
  // Answers make room for requests that wait in the buffer.
  for (int turn = 0; turn < 2; ++turn) {
    const Status status = Advance();
    if (!status.ok()) {
      HM_LOG_WARN("transfer: a reader is cut off: {}", status.error().message());
      return Close("it sent what makes no sense");
    }
    Flush();
    if (!IsOpen()) return;
  }
  UpdateEvents();
}

void OwnerConnection::Read() {
  const size_t had = in_.size();
  in_.resize(kInputBytes);
  const iovec piece = {.iov_base = in_.data() + had, .iov_len = kInputBytes - had};
  const ssize_t bytes = ReceiveMessage(fd_.get(), {&piece, 1});
  const int error = errno;
  in_.resize(had + static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  used_us_ = context_.loop->NowUs();
  if (bytes > 0 || (bytes < 0 && (error == EAGAIN || error == EINTR))) return;
  Close(bytes == 0 ? "the reader has closed it" : "it broke");
}

void OwnerConnection::UpdateEvents() {
  uint32_t wanted = 0;
  // A connection that has been reset is "hung up" for ever: only changes are of interest then.
  if (!IsOpen()) wanted = EPOLLET;
  // An input that is full is one that waits for room: nothing is read until there is.
  if (IsOpen() && HasRoom() && in_.size() < kInputBytes) wanted |= EPOLLIN;
  if (IsOpen() && !out_.empty()) wanted |= EPOLLOUT;
  if (wanted == events_) return;
  events_ = wanted;
  context_.loop->Change(*watch_, events_);
}

Status OwnerConnection::Advance() {
  while (state_ != State::kReady) {
    HM_ASSIGN(const bool advanced, AdvanceHandshake());
    if (!advanced) return {};
  }
  size_t used = 0;
  Request request;
  while (HasRoom()) {
    HM_ASSIGN(const size_t size, Request::Parse(std::string_view(in_).substr(used), &request));
    if (size == 0) break;
    used += size;
    Answer(request);
  }
  in_.erase(0, used);
  return {};
}

Result<bool> OwnerConnection::AdvanceHandshake() {
  if (state_ == State::kHello) {
    if (in_.size() < kHelloBytes) return false;
    HM_ASSIGN(reader_, Hello::Parse(std::string_view(in_).substr(0, kHelloBytes)));
    if (reader_.path != kind_) return Error(ErrorCode::kCorrupt, "hello of another path");
    in_.erase(0, kHelloBytes);
    Send({.head = hello_.Format()});
    state_ = State::kProof;
    return true;
  }
  if (in_.size() < kProofBytes) return false;
  const std::string& token = context_.options.token;
  HM_ASSIGN(const std::string expected, Proof(Role::kReader, token, reader_, hello_));
  if (!net::SecretsEqual(std::string_view(in_).substr(0, kProofBytes), expected)) {
    Send({.head = Verdict{}.Format()});
    Flush();
    return Error(ErrorCode::kCorrupt, "it has another token");
  }
  in_.erase(0, kProofBytes);
  HM_ASSIGN(const std::string proof, Proof(Role::kOwner, token, reader_, hello_));
  Send({.head = Verdict{.accepted = true, .proof = proof}.Format()});
  state_ = State::kReady;
  used_us_ = context_.loop->NowUs();
  return true;
}

void OwnerConnection::Answer(const Request& request) {
  Reply reply = {.type = request.type, .number = request.number};
  Outgoing message;
  if (request.type == MessageType::kConnect) {
    reply.status = ConnectUcx(request);
  } else if (request.type == MessageType::kConfirm) {
    reply.status = leases_.erase(request.number) == 1 ? ReplyStatus::kOk : ReplyStatus::kGone;
  } else {
    std::optional<SegmentPin> pin = context_.segments->Pin(request.segment, request.secret);
    reply.status =
        pin ? AnswerPinned(request, std::move(*pin), &reply, &message) : ReplyStatus::kGone;
  }
  const auto bytes = reply.Format();
  message.head.assign(bytes.data(), bytes.size());
  Send(std::move(message));
}

ReplyStatus OwnerConnection::AnswerPinned(const Request& request, SegmentPin pin, Reply* reply,
                                          Outgoing* message) {
  const uint64_t size = pin.memory().size();
  if (request.type == MessageType::kRead) {
    for (const Piece& piece : request.pieces) {
      if (piece.offset > size || piece.length > size - piece.offset) {
        return ReplyStatus::kOutOfRange;
      }
    }
    reply->length = request.TotalBytes();
    if (kind_ == PathKind::kUcx) return SendOverUcx(request, std::move(pin));
    message->pieces = request.pieces;
    message->pin = std::move(pin);
    return ReplyStatus::kOk;
  }
  if (request.type == MessageType::kLease) {
    if (kind_ != PathKind::kSharedMemory) return ReplyStatus::kNoFile;
    context_.counters->path(kind_).sent_bytes += request.TotalBytes();
    leases_[request.number] = std::move(pin);
    return ReplyStatus::kOk;
  }
  const SharedFile file = context_.segments->FileOf(pin);
  if (file.fd < 0 || kind_ != PathKind::kSharedMemory || opened_.size() >= kMaxSegments) {
    return ReplyStatus::kNoFile;
  }
  opened_.insert(request.segment);
  reply->length = size;
  reply->offset = file.offset;
  message->file = file.fd;
  message->pin = std::move(pin);
  return ReplyStatus::kOk;
}

}  // namespace halfmoon::transfer
