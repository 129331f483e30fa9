// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "base/file_reader_impl.h"
#include "base/uring.h"

namespace halfmoon {
namespace {

/// Transfers through one ring; the kernel does the rest, so there is no thread.
class UringReader final : public PieceReader {
 public:
  UringReader(std::unique_ptr<Uring> ring, ReadableFiles files, const FileReaderOptions& options)
      : PieceReader(std::move(files), options), ring_(std::move(ring)) {}
  ~UringReader() override { WaitForTransfers(); }

  std::string method() const override { return "io_uring, direct I/O"; }

 protected:
  void Start(size_t index, const ReadPiece& piece) override {
    ring_->Read(index, files()[piece.file].fd, piece.into, piece.length, piece.offset);
  }
  void Flush() override { ring_->Submit(); }
  std::optional<PieceDone> Reap(bool wait) override {
    const std::optional<Uring::Completion> done = ring_->Reap(wait);
    if (!done) return std::nullopt;
    return PieceDone{.piece = done->tag, .result = done->result};
  }

 private:
  const std::unique_ptr<Uring> ring_;
};

}  // namespace

std::unique_ptr<FileReader> NewUringReader(ReadableFiles* files, const FileReaderOptions& options) {
  std::unique_ptr<Uring> ring = Uring::Open(std::max(options.depth, 1));
  if (ring == nullptr) return nullptr;
  return std::make_unique<UringReader>(std::move(ring), std::move(*files), options);
}

}  // namespace halfmoon
