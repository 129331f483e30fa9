// SPDX-License-Identifier: Apache-2.0
#include "transfer/peer_connection.h"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

#include "net/digest.h"

namespace halfmoon::transfer {

Error RefusalOf(ReplyStatus status) {
  switch (status) {
    case ReplyStatus::kOutOfRange:
      return Error(ErrorCode::kInvalidArgument, "a range is not within the segment");
    case ReplyStatus::kNoFile:
      return Error(ErrorCode::kUnavailable, "the segment has no memory file");
    case ReplyStatus::kNoWay:
      return Error(ErrorCode::kUnavailable, "UCX does not lead to the peer");
    default:
      return Error(ErrorCode::kUnavailable, "the segment has gone, or the secret is another");
  }
}

PeerConnection::~PeerConnection() {
  if (watch_) context_.loop->Unwatch(*watch_);
  if (timer_) context_.loop->CancelTimer(*timer_);
}

Status PeerConnection::Start() {
  hello_.path = context_.kind;
  HM_ASSIGN(hello_.nonce, RandomSecret());
  events_ = EPOLLIN | EPOLLOUT;
  HM_ASSIGN(watch_, context_.loop->Watch(fd_.get(), events_, this));
  timer_ = context_.loop->After(context_.options->connect_timeout_us, [this] {
    timer_.reset();
    Lose(Loss::kSilent, Error(ErrorCode::kUnavailable, "no answer to the connection"));
  });
  return {};
}

bool PeerConnection::Lose(Loss loss, const Error& error) {
  if (state_ == State::kLost) return false;
  state_ = State::kLost;
  context_.events->OnLost(*this, loss, error);
  return false;
}

bool PeerConnection::LoseBySystem(int system_error, std::string_view what) {
  Loss loss = Loss::kBroken;
  switch (system_error) {
    case ECONNREFUSED:
      loss = Loss::kRefused;
      break;
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
      loss = Loss::kSilent;
      break;
    default:
      break;
  }
  return Lose(
      loss, Error(ErrorCode::kUnavailable, std::string(what) + ": " + std::strerror(system_error)));
}

void PeerConnection::OnEvents(uint32_t events) {
  if (state_ == State::kConnecting && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
    const int error = SocketError(fd_.get());
    if (error != 0) {
      LoseBySystem(error, "connect");
      return;
    }
    out_ = hello_.Format();
    state_ = State::kHello;
  }
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
    while (state_ == State::kHello || state_ == State::kVerdict) {
      if (!AdvanceHandshake()) break;
    }
    if (state_ == State::kReady && !ReadReplies()) return;
  }
  if (state_ == State::kLost) return;
  context_.events->OnProgress();
  if (state_ != State::kLost) Flush();
}

bool PeerConnection::AdvanceHandshake() {
  // Never more than the message: what follows may belong into a target.
  const size_t wanted = state_ == State::kHello ? kHelloBytes : kVerdictBytes;
  const size_t had = in_.size();
  in_.resize(wanted);
  const iovec piece = {.iov_base = in_.data() + had, .iov_len = wanted - had};
  const ssize_t bytes = ReceiveMessage(fd_.get(), {&piece, 1});
  const int error = errno;
  in_.resize(had + (bytes > 0 ? static_cast<size_t>(bytes) : 0));
  if (bytes < 0 && (error == EAGAIN || error == EINTR)) return false;
  if (bytes < 0) return LoseBySystem(error, "handshake");
  if (bytes == 0) {
    return Lose(Loss::kBroken,
                Error(ErrorCode::kUnavailable, "the peer closes the connection at once"));
  }
  if (in_.size() < wanted) return false;
  if (state_ == State::kVerdict) return CheckVerdict();
  const Result<Hello> owner = Hello::Parse(in_);
  if (!owner.ok()) return Lose(Loss::kRefused, owner.error());
  owner_ = *owner;
  const Result<std::string> proof = Proof(Role::kReader, context_.options->token, hello_, owner_);
  if (!proof.ok()) return Lose(Loss::kRefused, proof.error());
  out_ += *proof;
  in_.clear();
  state_ = State::kVerdict;
  Flush();
  return state_ != State::kLost;
}

bool PeerConnection::CheckVerdict() {
  const Verdict verdict = Verdict::Parse(in_);
  const Result<std::string> expected = Proof(Role::kOwner, context_.options->token, hello_, owner_);
  if (!expected.ok()) return Lose(Loss::kRefused, expected.error());
  if (!verdict.accepted || !net::SecretsEqual(verdict.proof, *expected)) {
    return Lose(Loss::kRefused, Error(ErrorCode::kUnavailable,
                                      "the peer has another token (--cluster-token-file)"));
  }
  in_ = {};
  state_ = State::kReady;
  was_ready_ = true;
  if (timer_) context_.loop->CancelTimer(*timer_);
  timer_.reset();
  context_.events->OnReady(*this);
  return state_ != State::kLost;
}

void PeerConnection::Flush() {
  while (!out_.empty() && state_ != State::kConnecting) {
    const iovec piece = {.iov_base = out_.data(), .iov_len = out_.size()};
    const ssize_t bytes = SendMessage(fd_.get(), {&piece, 1}, 0);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == EAGAIN) break;
    // Broken: the loop reports that next, once whoever calls this is through with the connection.
    if (bytes < 0) break;
    out_.erase(0, static_cast<size_t>(bytes));
  }
  UpdateEvents();
}

void PeerConnection::UpdateEvents() {
  uint32_t wanted = EPOLLIN;
  if (!out_.empty() || state_ == State::kConnecting) wanted |= EPOLLOUT;
  if (wanted == events_) return;
  events_ = wanted;
  context_.loop->Change(*watch_, wanted);
}

}  // namespace halfmoon::transfer
