// SPDX-License-Identifier: Apache-2.0
// One io_uring, as far as reading and writing of files needs it. Included by the sources that use
// it only: nobody else sees liburing.
#pragma once

#include <liburing.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "base/check.h"

namespace halfmoon {

/// Used by one thread at a time. Goes when nothing is in flight.
class Uring {
 public:
  /// What an entry has ended with: bytes, or the negated errno.
  struct Completion {
    uint64_t tag = 0;
    int64_t result = 0;
  };

  /// nullptr where the kernel does not let this process have one.
  static std::unique_ptr<Uring> Open(int depth) {
    auto ring = std::make_unique<Uring>();
    if (io_uring_queue_init(static_cast<unsigned>(depth), &ring->ring_, 0) != 0) return nullptr;
    ring->open_ = true;
    return ring;
  }
  Uring() = default;  // of Open
  ~Uring() {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  /// Leaves with Submit. Requires fewer than `depth` in flight.
  void Read(uint64_t tag, int fd, void* buffer, size_t size_bytes, uint64_t offset) {
    io_uring_prep_read(Entry(), fd, buffer, static_cast<unsigned>(size_bytes), offset);
    io_uring_sqe_set_data64(last_, tag);
  }
  void Write(uint64_t tag, int fd, const void* buffer, size_t size_bytes, uint64_t offset) {
    io_uring_prep_write(Entry(), fd, buffer, static_cast<unsigned>(size_bytes), offset);
    io_uring_sqe_set_data64(last_, tag);
  }
  void Submit() { Check(io_uring_submit(&ring_)); }

  /// With `wait`, something is in flight and its end comes.
  std::optional<Completion> Reap(bool wait) {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) != 0) {
      if (!wait) return std::nullopt;
      Check(io_uring_submit_and_wait(&ring_, 1));
    }
    const Completion done{.tag = io_uring_cqe_get_data64(cqe), .result = cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    return done;
  }

 private:
  io_uring_sqe* Entry() {
    // The ring has as many entries as there are transfers in flight, and each submit empties it.
    last_ = io_uring_get_sqe(&ring_);
    HM_CHECK(last_ != nullptr);
    return last_;
  }

  // What a transfer meets comes with its end. Submitting fails for want of kernel memory or by a
  // signal, and is repeated by the next wait; anything else is a mistake of ours.
  static void Check(int result) {
    const bool again = result == -EINTR || result == -EAGAIN || result == -EBUSY ||
                       result == -ENOMEM || result == -ETIME;
    HM_CHECK(result >= 0 || again, std::string("io_uring_submit: ") + std::strerror(-result));
  }

  io_uring ring_{};
  bool open_ = false;
  io_uring_sqe* last_ = nullptr;
};

}  // namespace halfmoon
