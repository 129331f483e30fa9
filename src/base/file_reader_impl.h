// SPDX-License-Identifier: Apache-2.0
// What the ways of reading share: requests are cut into pieces, pieces that came short go on where
// they stopped, a request ends with its last piece. Callers use file_reader.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_reader.h"

namespace halfmoon {

/// An open file. Closed by its owner's destructor.
struct ReadableFile {
  int fd = -1;
  bool direct = false;
  std::filesystem::path path;
};

/// Move-only set of open files.
class ReadableFiles {
 public:
  static Result<ReadableFiles> Open(std::span<const std::filesystem::path> paths,
                                    bool allow_direct);
  ReadableFiles(ReadableFiles&&) = default;
  ReadableFiles& operator=(ReadableFiles&&) = delete;
  ReadableFiles(const ReadableFiles&) = delete;
  ReadableFiles& operator=(const ReadableFiles&) = delete;
  ~ReadableFiles();

  const ReadableFile& operator[](size_t i) const { return files_[i]; }
  size_t size() const { return files_.size(); }
  bool all_direct() const;

 private:
  ReadableFiles() = default;
  std::vector<ReadableFile> files_;
};

/// A part of a request, small enough for one transfer.
struct ReadPiece {
  size_t request = 0;
  size_t file = 0;
  uint64_t offset = 0;  ///< of what is still missing
  size_t length = 0;    ///< whole blocks
  size_t needed = 0;    ///< of them, those that have to be there: a file may end inside its block
  std::byte* into = nullptr;
};

/// A piece's transfer: bytes, or the negated errno.
struct PieceDone {
  size_t piece = 0;
  int64_t result = 0;
};

class PieceReader : public FileReader {
 public:
  PieceReader(ReadableFiles files, const FileReaderOptions& options);

  void Submit(const FileRead& read) final;
  std::optional<FileReadDone> TryNext() final;
  FileReadDone Next() final;
  size_t pending() const final { return pending_; }

 protected:
  const ReadableFiles& files() const { return files_; }
  /// Starts the transfer of piece number `index`, which stays valid until it is done.
  virtual void Start(size_t index, const ReadPiece& piece) = 0;
  /// Called after one or more Start.
  virtual void Flush() {}
  /// A transfer that has ended; with `wait`, there is one in flight and it comes.
  virtual std::optional<PieceDone> Reap(bool wait) = 0;
  /// For destructors of what transfers: waits until nothing is in flight.
  void WaitForTransfers();

 private:
  struct Request {
    FileRead read;
    size_t pieces_left = 0;
    Status status;
  };

  void StartQueued();
  void Finish(const PieceDone& done);
  /// What is left of a piece after a transfer, if it has to go on.
  bool GoOn(ReadPiece* piece, int64_t result, Status* status) const;

  ReadableFiles files_;
  const FileReaderOptions options_;
  std::vector<Request> requests_;
  std::vector<size_t> free_requests_;
  std::deque<ReadPiece> queued_;
  std::vector<ReadPiece> in_flight_;  // [depth]
  std::vector<size_t> free_pieces_;
  std::deque<FileReadDone> done_;
  size_t pending_ = 0;
};

/// nullptr where the kernel offers no io_uring, or not to this process; `files` is then untouched.
std::unique_ptr<FileReader> NewUringReader(ReadableFiles* files, const FileReaderOptions& options);
std::unique_ptr<FileReader> NewThreadReader(ReadableFiles files, const FileReaderOptions& options);

}  // namespace halfmoon
