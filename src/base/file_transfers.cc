// SPDX-License-Identifier: Apache-2.0
#include "base/file_transfers.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/uring.h"

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
  UringTransfers(std::unique_ptr<Uring> ring, int depth)
      : SlottedTransfers(depth), ring_(std::move(ring)) {}
  ~UringTransfers() override { WaitForAll(); }

  std::string method() const override { return "io_uring"; }

 protected:
  void Move(size_t index, const FileTransfer& t) override {
    if (t.kind == FileTransfer::Kind::kRead) {
      ring_->Read(index, t.fd, t.buffer, t.size_bytes, t.offset);
    } else {
      ring_->Write(index, t.fd, t.buffer, t.size_bytes, t.offset);
    }
    ring_->Submit();
  }
  std::optional<Moved> Reap(bool wait) override {
    const std::optional<Uring::Completion> done = ring_->Reap(wait);
    if (!done) return std::nullopt;
    return Moved{.index = done->tag, .result = done->result};
  }

 private:
  const std::unique_ptr<Uring> ring_;
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
  std::unique_ptr<Uring> ring = allow_io_uring ? Uring::Open(depth) : nullptr;
  if (ring != nullptr) return std::make_unique<UringTransfers>(std::move(ring), depth);
  return std::make_unique<ThreadTransfers>(depth);
}

}  // namespace halfmoon
