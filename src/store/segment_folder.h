// SPDX-License-Identifier: Apache-2.0
// A folder of files of fixed size as the SSD tier sees it, so that tests can put another one in its
// place: one that fails, tears writes and forgets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace halfmoon::store {

/// A file that is open; chosen by the folder.
enum class FileId : int32_t {};

/// One range of one file, in whole blocks of kDiskAlignment.
struct DiskTransfer {
  enum class Kind : uint8_t { kRead, kWrite };
  uint64_t tag = 0;  ///< comes back with the end
  Kind kind = Kind::kRead;
  FileId file{};
  uint64_t offset = 0;
  size_t size_bytes = 0;
  std::byte* buffer = nullptr;  ///< at a multiple of kDiskAlignment, the folder's until the end
};

struct DiskTransferDone {
  uint64_t tag = 0;
  Status status;  ///< kIo, kResourceExhausted where the disk is full; names the file
};

/// Used by one thread at a time.
class SegmentFolder {
 public:
  struct File {
    std::string name;
    uint64_t size_bytes = 0;
  };

  virtual ~SegmentFolder() = default;
  /// The regular files in it, by name.
  virtual Result<std::vector<File>> List() = 0;
  /// A new file of this size, filled with zeros, its space taken where the file system can do that.
  /// Errors: kResourceExhausted where the disk is full (the file is then gone), kIo.
  virtual Result<FileId> Create(const std::string& name, uint64_t size_bytes) = 0;
  /// Errors: kNotFound, kIo.
  virtual Result<FileId> Open(const std::string& name) = 0;
  virtual void Close(FileId file) = 0;
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  virtual Status Remove(const std::string& name) = 0;

  /// Starts a transfer. Requires pending() below depth().
  virtual void Start(const DiskTransfer& transfer) = 0;
  virtual std::optional<DiskTransferDone> TryNext() = 0;
  /// Waits for one. Requires pending() > 0.
  virtual DiskTransferDone Next() = 0;
  virtual size_t pending() const = 0;
  virtual size_t depth() const = 0;

  /// For people: where it is, and "io_uring, direct I/O".
  virtual std::string path() const = 0;
  virtual std::string method() const = 0;
};

struct SegmentFolderOptions {
  std::filesystem::path path;
  int depth = 16;  ///< transfers in flight
  bool allow_io_uring = true;
  bool allow_direct = true;
};

/// Makes the folder where it is missing and takes its lock (a file `lock`), which the process holds
/// as long as the object lives. Errors: kUnavailable where another process has it, kIo.
Result<std::unique_ptr<SegmentFolder>> OpenSegmentFolder(const SegmentFolderOptions& options);

}  // namespace halfmoon::store
