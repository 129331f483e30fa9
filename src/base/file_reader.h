// SPDX-License-Identifier: Apache-2.0
// Reading ranges of files while the caller computes: many reads in flight, direct I/O, and no page
// cache that would push other memory out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace halfmoon {

/// One range of one file.
struct FileRead {
  uint64_t tag = 0;  ///< the caller's name for it; comes back with the completion
  size_t file = 0;   ///< index into the files that the reader was opened with
  uint64_t offset = 0;
  size_t size_bytes = 0;
  /// BufferBytes(offset, size_bytes) bytes at a multiple of FileReader::kAlignment, the caller's
  /// until the completion. The data then starts at buffer + Lead(offset); the bytes around it are
  /// overwritten too, since direct I/O transfers whole blocks.
  std::byte* buffer = nullptr;
};

/// A read that has ended. Errors: kIo where the system refused or the file ends before the range
/// does; the message names file and range.
struct FileReadDone {
  uint64_t tag = 0;
  Status status;
};

/// Asynchronous reads of a fixed set of files. Used by one thread at a time. The destructor waits
/// for what is in flight, so that nothing writes into a buffer after it.
class FileReader {
 public:
  /// Of offsets, sizes and addresses in direct I/O: a multiple of the block of every common disk.
  static constexpr size_t kAlignment = 4096;
  /// How far into the buffer the data starts.
  static constexpr size_t Lead(uint64_t offset) { return offset % kAlignment; }
  /// The buffer that a read of this range needs.
  static constexpr size_t BufferBytes(uint64_t offset, size_t size_bytes) {
    return (Lead(offset) + size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  virtual ~FileReader() = default;
  /// Queues a read and starts it as soon as the depth allows. Never blocks.
  virtual void Submit(const FileRead& read) = 0;
  /// A read that has ended, in any order; nullopt where none has yet.
  virtual std::optional<FileReadDone> TryNext() = 0;
  /// Waits for one. Requires pending() > 0.
  virtual FileReadDone Next() = 0;
  /// Reads submitted whose completion was not taken.
  virtual size_t pending() const = 0;
  /// How it reads, for people: "io_uring, direct I/O".
  virtual std::string method() const = 0;
};

struct FileReaderOptions {
  bool allow_io_uring = true;  ///< false: threads that call pread
  bool allow_direct = true;    ///< false: through the page cache, dropped behind the read
  int depth = 32;              ///< pieces in flight
  /// Larger reads are cut into pieces of this many bytes, a multiple of kAlignment. At 1 MiB the
  /// system's own limit for one transfer no longer serialises a read, and a piece still takes
  /// longer than its call.
  size_t piece_bytes = size_t{1} << 20;
};

/// Opens `files` for reading: io_uring and O_DIRECT where the kernel and each file system have
/// them, else threads and the page cache. Errors: kNotFound, kIo naming the file.
Result<std::unique_ptr<FileReader>> OpenFileReader(std::span<const std::filesystem::path> files,
                                                   const FileReaderOptions& options = {});

}  // namespace halfmoon
