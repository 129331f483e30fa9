// SPDX-License-Identifier: Apache-2.0
#include "base/file_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/file_reader_impl.h"

namespace halfmoon {
namespace {

/// Whether a file that opened with O_DIRECT reads that way: some file systems only refuse later.
bool ReadsDirectly(int fd) {
  alignas(FileReader::kAlignment) std::array<std::byte, FileReader::kAlignment> block;
  return ::pread(fd, block.data(), block.size(), 0) >= 0;
}

Result<ReadableFile> OpenOne(const std::filesystem::path& path, bool allow_direct) {
  ReadableFile file{.path = path};
  if (allow_direct) {
    file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file.fd >= 0 && ReadsDirectly(file.fd)) {
      file.direct = true;
      return file;
    }
    if (file.fd >= 0) ::close(file.fd);
  }
  file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd < 0) {
    const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
    return Error(code, path.string() + ": cannot open: " + std::strerror(errno));
  }
  // Reads are of exactly what is wanted; what the kernel would read around them is not.
  (void)::posix_fadvise(file.fd, 0, 0, POSIX_FADV_RANDOM);
  return file;
}

}  // namespace

Result<ReadableFiles> ReadableFiles::Open(std::span<const std::filesystem::path> paths,
                                          bool allow_direct) {
  ReadableFiles files;
  files.files_.reserve(paths.size());
  for (const std::filesystem::path& path : paths) {
    HM_ASSIGN(ReadableFile file, OpenOne(path, allow_direct));
    files.files_.push_back(std::move(file));
  }
  return files;
}

ReadableFiles::~ReadableFiles() {
  for (const ReadableFile& file : files_) ::close(file.fd);
}

bool ReadableFiles::all_direct() const {
  return std::ranges::all_of(files_, [](const ReadableFile& file) { return file.direct; });
}

PieceReader::PieceReader(ReadableFiles files, const FileReaderOptions& options)
    : files_(std::move(files)),
      options_(options),
      in_flight_(static_cast<size_t>(std::max(1, options.depth))) {
  HM_CHECK(options.piece_bytes >= kAlignment);
  HM_CHECK(options.piece_bytes % kAlignment == 0);
  for (size_t i = in_flight_.size(); i > 0; --i) free_pieces_.push_back(i - 1);
}

void PieceReader::Submit(const FileRead& read) {
  HM_CHECK(read.file < files_.size());
  HM_CHECK(reinterpret_cast<uintptr_t>(read.buffer) % kAlignment == 0);
  ++pending_;
  if (read.size_bytes == 0) {
    done_.push_back({.tag = read.tag, .status = {}});
    return;
  }
  size_t index = requests_.size();
  if (free_requests_.empty()) {
    requests_.emplace_back();
  } else {
    index = free_requests_.back();
    free_requests_.pop_back();
  }
  Request& request = requests_[index];
  request = {.read = read, .pieces_left = 0, .status = {}};
  const size_t lead = Lead(read.offset);
  const size_t window = BufferBytes(read.offset, read.size_bytes);
  for (size_t at = 0; at < window; at += options_.piece_bytes) {
    const size_t length = std::min(options_.piece_bytes, window - at);
    queued_.push_back({.request = index,
                       .file = read.file,
                       .offset = read.offset - lead + at,
                       .length = length,
                       .needed = std::min(length, lead + read.size_bytes - at),
                       .into = read.buffer + at});
    ++request.pieces_left;
  }
  StartQueued();
}

void PieceReader::StartQueued() {
  bool started = false;
  while (!queued_.empty() && !free_pieces_.empty()) {
    const size_t index = free_pieces_.back();
    free_pieces_.pop_back();
    in_flight_[index] = queued_.front();
    queued_.pop_front();
    Start(index, in_flight_[index]);
    started = true;
  }
  if (started) Flush();
}

std::optional<FileReadDone> PieceReader::TryNext() {
  while (free_pieces_.size() < in_flight_.size()) {
    const std::optional<PieceDone> done = Reap(/*wait=*/false);
    if (!done.has_value()) break;
    Finish(*done);
  }
  if (done_.empty()) return std::nullopt;
  FileReadDone done = std::move(done_.front());
  done_.pop_front();
  --pending_;
  return done;
}

FileReadDone PieceReader::Next() {
  HM_CHECK(pending_ > 0);
  for (;;) {
    if (std::optional<FileReadDone> done = TryNext()) return std::move(*done);
    Finish(*Reap(/*wait=*/true));
  }
}

bool PieceReader::GoOn(ReadPiece* piece, int64_t result, Status* status) const {
  const ReadableFile& file = files_[piece->file];
  if (result == -EINTR || result == -EAGAIN) return true;
  const auto fail = [&](const std::string& why) {
    *status = Error(ErrorCode::kIo, file.path.string() + ": cannot read " +
                                        std::to_string(piece->needed) + " bytes at offset " +
                                        std::to_string(piece->offset) + ": " + why);
    return false;
  };
  if (result < 0) return fail(std::strerror(static_cast<int>(-result)));
  const auto got = static_cast<size_t>(result);
  if (got >= piece->needed) return false;
  // Direct transfers start at whole blocks, so a block that came in part is read again.
  const size_t kept = file.direct ? got / kAlignment * kAlignment : got;
  if (kept == 0) return fail("the file ends there (was it cut short?)");
  piece->offset += kept;
  piece->into += kept;
  piece->length -= kept;
  piece->needed -= kept;
  return true;
}

void PieceReader::Finish(const PieceDone& done) {
  ReadPiece& piece = in_flight_[done.piece];
  Request& request = requests_[piece.request];
  Status status;
  if (GoOn(&piece, done.result, &status)) {
    Start(done.piece, piece);
    Flush();
    return;
  }
  if (!status.ok() && request.status.ok()) request.status = std::move(status);
  if (!files_[piece.file].direct) {
    (void)::posix_fadvise(files_[piece.file].fd, static_cast<off_t>(piece.offset),
                          static_cast<off_t>(piece.length), POSIX_FADV_DONTNEED);
  }
  free_pieces_.push_back(done.piece);
  if (--request.pieces_left == 0) {
    done_.push_back({.tag = request.read.tag, .status = std::move(request.status)});
    free_requests_.push_back(piece.request);
  }
  StartQueued();
}

void PieceReader::WaitForTransfers() {
  queued_.clear();
  while (free_pieces_.size() < in_flight_.size()) {
    free_pieces_.push_back(Reap(/*wait=*/true)->piece);
  }
}

Result<std::unique_ptr<FileReader>> OpenFileReader(std::span<const std::filesystem::path> files,
                                                   const FileReaderOptions& options) {
  HM_ASSIGN(ReadableFiles opened, ReadableFiles::Open(files, options.allow_direct));
  // Through the page cache io_uring hands most reads to threads of its own; ours are simpler.
  if (options.allow_io_uring && opened.all_direct()) {
    if (std::unique_ptr<FileReader> reader = NewUringReader(&opened, options)) return reader;
  }
  return NewThreadReader(std::move(opened), options);
}

}  // namespace halfmoon
