// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/file_reader_impl.h"

namespace halfmoon {
namespace {

/// Transfers through one ring; the kernel does the rest, so there is no thread.
class UringReader final : public PieceReader {
 public:
  UringReader(const io_uring& ring, ReadableFiles files, const FileReaderOptions& options)
      : PieceReader(std::move(files), options), ring_(ring) {}
  UringReader(const UringReader&) = delete;
  UringReader& operator=(const UringReader&) = delete;
  ~UringReader() override {
    WaitForTransfers();
    io_uring_queue_exit(&ring_);
  }

  std::string method() const override { return "io_uring, direct I/O"; }

 protected:
  void Start(size_t index, const ReadPiece& piece) override {
    // The ring has as many entries as there are pieces in flight, and each Flush empties it.
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    HM_CHECK(sqe != nullptr);
    io_uring_prep_read(sqe, files()[piece.file].fd, piece.into, static_cast<unsigned>(piece.length),
                       piece.offset);
    io_uring_sqe_set_data64(sqe, index);
  }

  void Flush() override { CheckSubmit(io_uring_submit(&ring_)); }

  std::optional<PieceDone> Reap(bool wait) override {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) != 0) {
      if (!wait) return std::nullopt;
      CheckSubmit(io_uring_submit_and_wait(&ring_, 1));
    }
    const PieceDone done{.piece = io_uring_cqe_get_data64(cqe), .result = cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    return done;
  }

 private:
  /// What a transfer meets comes with its completion. Submitting fails for want of kernel memory or
  /// by a signal, and is repeated by the next wait; anything else is a mistake of ours.
  static void CheckSubmit(int result) {
    const bool again = result == -EINTR || result == -EAGAIN || result == -EBUSY ||
                       result == -ENOMEM || result == -ETIME;
    HM_CHECK(result >= 0 || again, std::string("io_uring_submit: ") + std::strerror(-result));
  }

  io_uring ring_;
};

}  // namespace

std::unique_ptr<FileReader> NewUringReader(ReadableFiles* files, const FileReaderOptions& options) {
  io_uring ring{};
  const auto entries = static_cast<unsigned>(options.depth < 1 ? 1 : options.depth);
  if (io_uring_queue_init(entries, &ring, 0) != 0) return nullptr;
  return std::make_unique<UringReader>(ring, std::move(*files), options);
}

}  // namespace halfmoon
