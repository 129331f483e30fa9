// SPDX-License-Identifier: Apache-2.0
// OwnerConnection: what goes out, with and without a copy into the kernel.
// clang-format off
#include <time.h>
#include <linux/errqueue.h>  // wants what comes before it
// clang-format on
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "transfer/owner_connection.h"

namespace halfmoon::transfer {

namespace {

// Sent to one reader before others have a turn.
constexpr uint64_t kTurnBytes = 4 << 20;
// Below it, pinning pages and hearing of their release costs more than the copy: the kernel's
// documentation of MSG_ZEROCOPY puts that at about 10 KB.
constexpr uint64_t kMinZeroCopyBytes = 32 << 10;

using Iovecs = std::array<iovec, 1 + kMaxPieces>;

}  // namespace

void OwnerConnection::Send(Outgoing message) {
  message.total = message.head.size();
  for (const Piece& piece : message.pieces) message.total += piece.length;
  out_.push_back(std::move(message));
}

void OwnerConnection::Flush() {
  uint64_t sent = 0;
  while (!out_.empty() && sent < kTurnBytes) {
    Outgoing& message = out_.front();
    const ssize_t bytes = SendSome(message);
    if (bytes < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) Close("it broke");
      return;
    }
    sent += static_cast<uint64_t>(bytes);
    message.sent += static_cast<uint64_t>(bytes);
    used_us_ = context_.loop->NowUs();
    if (message.sent < message.total) continue;
    context_.counters->path(kind_).sent_bytes += message.total - message.head.size();
    out_.pop_front();
  }
}

ssize_t OwnerConnection::SendSome(Outgoing& message) {
  Iovecs pieces;
  size_t count = 0;
  uint64_t skip = message.sent;
  auto add = [&](const void* data, uint64_t size) {
    const uint64_t skipped = std::min(skip, size);
    skip -= skipped;
    if (skipped == size) return;
    pieces[count++] = {.iov_base = const_cast<char*>(static_cast<const char*>(data)) + skipped,
                       .iov_len = size - skipped};
  };
  add(message.head.data(), message.head.size());
  const size_t head_pieces = count;
  for (const Piece& piece : message.pieces) {
    add(message.pin.memory().data() + piece.offset, piece.length);
  }
  const int file = message.sent == 0 ? message.file : -1;
  if (!zero_copy_ || message.total - message.sent < kMinZeroCopyBytes) {
    return SendMessage(fd_.get(), {pieces.data(), count}, 0, file);
  }
  if (head_pieces > 0) return SendMessage(fd_.get(), {pieces.data(), head_pieces}, MSG_MORE, file);
  return SendZeroCopy(message, {pieces.data(), count});
}

ssize_t OwnerConnection::SendZeroCopy(const Outgoing& message, std::span<const iovec> pieces) {
  const ssize_t bytes = SendMessage(fd_.get(), pieces, MSG_ZEROCOPY);
  // No room to pin more pages at once: this once with a copy.
  if (bytes < 0 && errno == ENOBUFS) return SendMessage(fd_.get(), pieces, 0);
  if (bytes > 0) zero_copies_.emplace(next_zero_copy_++, message.pin.Copy());
  return bytes;
}

void OwnerConnection::TakeCompletions() {
  while (true) {
    msghdr message = {};
    alignas(cmsghdr) std::array<char, 256> control = {};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (::recvmsg(fd_.get(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) break;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      sock_extended_err error = {};
      if (header->cmsg_len < CMSG_LEN(sizeof(error))) continue;
      std::memcpy(&error, CMSG_DATA(header), sizeof(error));
      if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno != 0) continue;
      // [ee_info, ee_data], of a counter that starts again after 2^32.
      for (uint32_t id = error.ee_info;; ++id) {
        zero_copies_.erase(id);
        if (id == error.ee_data) break;
      }
      if ((error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0 &&
          context_.options.zero_copy != ZeroCopy::kAlways) {
        zero_copy_ = false;
      }
    }
  }
  if (state_ == State::kDraining && zero_copies_.empty()) End();
}

}  // namespace halfmoon::transfer
