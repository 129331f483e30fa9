// SPDX-License-Identifier: Apache-2.0
// ChannelImpl: how both ends prove that they know the token (docs/formats/channel.md).
// clang-format off: asio.h has to come first, it decides how Asio is compiled.
#include "net/asio.h"
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
// clang-format on
#include "net/channel_connection.h"
#include "net/digest.h"

namespace halfmoon::net {
namespace {

constexpr std::string_view kMagic = "HMCHAN01";
constexpr size_t kNonceBytes = 32;
constexpr size_t kProofBytes = 32;
constexpr std::string_view kByDialler = "dialler";
constexpr std::string_view kByAcceptor = "acceptor";

// Both nonces are in each proof, and who gives it, so that none can be played back.
Result<std::string> ProofOf(const std::string& token, std::string_view who,
                            std::string_view dialler_nonce, std::string_view acceptor_nonce) {
  std::string message(kMagic);
  message.append(who).append(dialler_nonce).append(acceptor_nonce);
  return HmacSha256(token, message);
}

void Keep(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
}

}  // namespace

void ChannelImpl::Greet() {
  Keep(socket_);
  Result<std::string> nonce = RandomBytes(kNonceBytes);
  if (!nonce.ok()) return End(nonce.error());
  nonce_ = *nonce;
  WriteText(std::string(kMagic) + nonce_, [self = shared_from_this()] { self->ReadGreeting(); });
}

void ChannelImpl::ReadGreeting() {
  ReadText(kMagic.size() + kNonceBytes, [self = shared_from_this()](const std::string& text) {
    if (!text.starts_with(kMagic)) {
      return self->End(Error(ErrorCode::kCorrupt, self->peer_ + " speaks another protocol"));
    }
    self->peer_nonce_ = text.substr(kMagic.size());
    self->role_ == Role::kDialler ? self->ProveFirst() : self->CheckFirst();
  });
}

Result<std::string> ChannelImpl::ProofBy(Role role) const {
  const bool dials = role_ == Role::kDialler;
  return ProofOf(shared_->options.token, role == Role::kDialler ? kByDialler : kByAcceptor,
                 dials ? nonce_ : peer_nonce_, dials ? peer_nonce_ : nonce_);
}

void ChannelImpl::ProveFirst() {
  Result<std::string> proof = ProofBy(Role::kDialler);
  if (!proof.ok()) return End(proof.error());
  WriteText(*proof, [self = shared_from_this()] {
    self->CheckProof(Role::kAcceptor, [self] { self->BeOpen(); });
  });
}

void ChannelImpl::CheckFirst() {
  CheckProof(Role::kDialler, [self = shared_from_this()] {
    Result<std::string> proof = self->ProofBy(Role::kAcceptor);
    if (!proof.ok()) return self->End(proof.error());
    self->WriteText(*proof, [self] {
      self->handlers_ = self->shared_->accept(self);
      self->BeOpen();
    });
  });
}

void ChannelImpl::CheckProof(Role by, std::function<void()> then) {
  ReadText(kProofBytes,
           [self = shared_from_this(), by, then = std::move(then)](const std::string& proof) {
             const Result<std::string> expected = self->ProofBy(by);
             if (!expected.ok()) return self->End(expected.error());
             if (!SecretsEqual(proof, *expected)) return self->RefuseToken();
             then();
           });
}

void ChannelImpl::RefuseToken() {
  End(Error(ErrorCode::kInvalidArgument, peer_ + " has another cluster token"));
}

void ChannelImpl::WriteText(std::string text, std::function<void()> then) {
  out_ = std::move(text);
  asio::async_write(
      socket_, asio::buffer(out_),
      [self = shared_from_this(), then = std::move(then)](const error_code& error, size_t) {
        if (self->gone_) return;
        if (error) return self->Lose("lost", error);
        then();
      });
}

void ChannelImpl::ReadText(size_t size, std::function<void(const std::string&)> then) {
  payload_.resize(size);
  asio::async_read(
      socket_, asio::buffer(payload_.data(), size),
      [self = shared_from_this(), then = std::move(then)](const error_code& error, size_t) {
        if (self->gone_) return;
        // An acceptor ends without a word where the dialler's proof is wrong.
        if (error && self->role_ == Role::kDialler && !self->peer_nonce_.empty()) {
          return self->RefuseToken();
        }
        if (error) return self->Lose("lost", error);
        then(self->payload_);
      });
}

}  // namespace halfmoon::net
