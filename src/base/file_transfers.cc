// SPDX-License-Identifier: Apache-2.0
#include "base/file_transfers.h"

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"
#include "base/check.h"

namespace halfmoon {
namespace {

// Each keeps one transfer in flight; disks reach their rate with about this many.
constexpr int kMaxThreads = 8;

/// Of the transfer in slot `index`: bytes, or the negated errno.
struct Moved {
  size_t index = 0;
  int64_t result = 0;
};

// What both ways share: a transfer that came short goes on where it stopped.
class SlottedTransfers : public FileTransfers {
 public:
  explicit SlottedTransfers(int depth) : in_flight_(static_cast<size_t>(depth)) {
    HM_CHECK(depth >= 1);
    for (size_t i = in_flight_.size(); i > 0; --i) free_.push_back(i - 1);
  }

  void Start(const FileTransfer& transfer) final {
    HM_CHECK(!free_.empty(), "more transfers than the depth");
    const size_t index = free_.back();
    free_.pop_back();
    in_flight_[index] = transfer;
    Move(index, transfer);
  }
  std::optional<FileTransferDone> TryNext() final {
    while (pending() > 0) {
      const std::optional<Moved> moved = Reap(/*wait=*/false);
      if (!moved.has_value()) return std::nullopt;
      if (std::optional<FileTransferDone> done = Finish(*moved)) return done;
    }
    return std::nullopt;
  }
  FileTransferDone Next() final {
    HM_CHECK(pending() > 0);
    for (;;) {
      if (std::optional<FileTransferDone> done = Finish(*Reap(/*wait=*/true))) return *done;
    }
  }
  size_t pending() const final { return in_flight_.size() - free_.size(); }

 protected:
  virtual void Move(size_t index, const FileTransfer& transfer) = 0;
  /// A move that has ended; with `wait`, there is one in flight and it comes.
  virtual std::optional<Moved> Reap(bool wait) = 0;
  /// For destructors.
  void WaitForAll() {
    while (pending() > 0) (void)Next();
  }

 private:
  std::optional<FileTransferDone> Finish(const Moved& moved) {
    FileTransfer& transfer = in_flight_[moved.index];
    int error = 0;
    if (moved.result == -EINTR || moved.result == -EAGAIN) {
      Move(moved.index, transfer);
      return std::nullopt;
    }
    if (moved.result < 0) {
      error = static_cast<int>(-moved.result);
    } else if (moved.result == 0) {
      error = transfer.kind == FileTransfer::Kind::kRead ? ENODATA : EIO;
    } else if (static_cast<size_t>(moved.result) < transfer.size_bytes) {
      const auto count = static_cast<size_t>(moved.result);
      transfer.offset += count;
      transfer.buffer += count;
      transfer.size_bytes -= count;
      Move(moved.index, transfer);
      return std::nullopt;
    }
    free_.push_back(moved.index);
    return FileTransferDone{.tag = transfer.tag, .error = error};
  }

  std::vector<FileTransfer> in_flight_;  // [depth]
  std::vector<size_t> free_;
};

class UringTransfers final : public SlottedTransfers {
 public:
  UringTransfers(const io_uring& ring, int depth) : SlottedTransfers(depth), ring_(ring) {}
  UringTransfers(const UringTransfers&) = delete;
  UringTransfers& operator=(const UringTransfers&) = delete;
  ~UringTransfers() override {
    WaitForAll();
    io_uring_queue_exit(&ring_);
  }

  std::string method() const override { return "io_uring"; }

 protected:
  void Move(size_t index, const FileTransfer& transfer) override {
    // The ring has as many entries as there are transfers in flight, and each submit empties it.
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    HM_CHECK(sqe != nullptr);
    const auto size = static_cast<unsigned>(transfer.size_bytes);
    if (transfer.kind == FileTransfer::Kind::kRead) {
      io_uring_prep_read(sqe, transfer.fd, transfer.buffer, size, transfer.offset);
    } else {
      io_uring_prep_write(sqe, transfer.fd, transfer.buffer, size, transfer.offset);
    }
    io_uring_sqe_set_data64(sqe, index);
    CheckSubmit(io_uring_submit(&ring_));
  }

  std::optional<Moved> Reap(bool wait) override {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) != 0) {
      if (!wait) return std::nullopt;
      CheckSubmit(io_uring_submit_and_wait(&ring_, 1));
    }
    const Moved moved{.index = io_uring_cqe_get_data64(cqe), .result = cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    return moved;
  }

 private:
  // What a transfer meets comes with its end. Submitting fails for want of kernel memory or by a
  // signal, and is repeated by the next wait; anything else is a mistake of ours.
  static void CheckSubmit(int result) {
    const bool again = result == -EINTR || result == -EAGAIN || result == -EBUSY ||
                       result == -ENOMEM || result == -ETIME;
    HM_CHECK(result >= 0 || again, std::string("io_uring_submit: ") + std::strerror(-result));
  }

  io_uring ring_;
};

class ThreadTransfers final : public SlottedTransfers {
 public:
  explicit ThreadTransfers(int depth)
      : SlottedTransfers(depth), work_(static_cast<size_t>(depth)), ended_(work_.capacity()) {
    for (int i = 0; i < std::min(depth, kMaxThreads); ++i) threads_.emplace_back([this] { Run(); });
  }
  ThreadTransfers(const ThreadTransfers&) = delete;
  ThreadTransfers& operator=(const ThreadTransfers&) = delete;
  ~ThreadTransfers() override {
    WaitForAll();
    work_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

  std::string method() const override { return std::to_string(threads_.size()) + " threads"; }

 protected:
  void Move(size_t index, const FileTransfer& transfer) override {
    const bool queued = work_.TryPush({.index = index, .transfer = transfer});
    HM_CHECK(queued, "more transfers than the depth");
  }
  std::optional<Moved> Reap(bool wait) override { return wait ? ended_.Pop() : ended_.TryPop(); }

 private:
  struct Work {
    size_t index = 0;
    FileTransfer transfer;
  };

  void Run() {
    while (const std::optional<Work> work = work_.Pop()) {
      const FileTransfer& t = work->transfer;
      const auto offset = static_cast<off_t>(t.offset);
      const ssize_t count = t.kind == FileTransfer::Kind::kRead
                                ? ::pread(t.fd, t.buffer, t.size_bytes, offset)
                                : ::pwrite(t.fd, t.buffer, t.size_bytes, offset);
      const bool queued =
          ended_.TryPush({.index = work->index, .result = count < 0 ? -int64_t{errno} : count});
      HM_CHECK(queued, "more transfers than the depth");
    }
  }

  BoundedQueue<Work> work_;
  BoundedQueue<Moved> ended_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<FileTransfers> NewFileTransfers(int depth, bool allow_io_uring) {
  io_uring ring{};
  if (allow_io_uring && io_uring_queue_init(static_cast<unsigned>(depth), &ring, 0) == 0) {
    return std::make_unique<UringTransfers>(ring, depth);
  }
  return std::make_unique<ThreadTransfers>(depth);
}

}  // namespace halfmoon
