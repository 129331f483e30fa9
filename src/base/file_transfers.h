// SPDX-License-Identifier: Apache-2.0
// Reads and writes of whole blocks in files that others have opened, many in flight at once. For
// reading ranges of any alignment from a fixed set of files there is file_reader.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace halfmoon {

/// One range of one file.
struct FileTransfer {
  enum class Kind : uint8_t { kRead, kWrite };
  uint64_t tag = 0;  ///< the caller's name for it; comes back with the end
  Kind kind = Kind::kRead;
  int fd = -1;  ///< open until the end; offset, size and buffer suit it where it has O_DIRECT
  uint64_t offset = 0;
  size_t size_bytes = 0;
  std::byte* buffer = nullptr;  ///< the transfer's until its end
};

struct FileTransferDone {
  uint64_t tag = 0;
  int error = 0;  ///< errno; 0: all bytes were transferred; ENODATA: the file ends before the range
};

/// Used by one thread at a time. The destructor waits for what is in flight.
class FileTransfers {
 public:
  virtual ~FileTransfers() = default;
  /// Starts a transfer without waiting for it. Requires pending() below the depth.
  virtual void Start(const FileTransfer& transfer) = 0;
  /// One that has ended, in any order; nullopt where none has.
  virtual std::optional<FileTransferDone> TryNext() = 0;
  /// Waits for one. Requires pending() > 0.
  virtual FileTransferDone Next() = 0;
  /// Transfers whose end was not taken.
  virtual size_t pending() const = 0;
  /// How it transfers, for people: "io_uring".
  virtual std::string method() const = 0;
};

/// io_uring where the kernel lets this process have it and `allow_io_uring`, else threads. Requires
/// depth >= 1.
std::unique_ptr<FileTransfers> NewFileTransfers(int depth, bool allow_io_uring = true);

}  // namespace halfmoon
