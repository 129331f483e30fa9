// SPDX-License-Identifier: Apache-2.0
// Files as memory: large ones mapped so that huge pages can hold them, and new ones that are filled
// through their mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace halfmoon {

/// Pages of a file. Starts at a huge page of the address space, so that file systems which keep
/// files in huge pages can map them as such. Move-only.
class FileMapping {
 public:
  FileMapping() = default;
  /// Maps the first `size_bytes` bytes, shared. More than the file holds is allowed, and may be
  /// touched once the file has grown. Errors: kIo.
  static Result<FileMapping> Map(int fd, size_t size_bytes, bool writable);
  FileMapping(FileMapping&& other) noexcept;
  FileMapping& operator=(FileMapping&& other) noexcept;
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  ~FileMapping();

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  /// From here on a write through the mapping is a fault.
  void MakeReadOnly();
  /// Brings the pages of [offset, offset + length) into memory and into the mapping. Waits for the
  /// disk. A hint: errors are ignored.
  void Populate(size_t offset, size_t length) const;

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

/// Bounds of a file that is being written.
struct FileArenaOptions {
  size_t capacity_bytes = 0;   ///< address space: more is never allocated
  uint64_t max_bytes = 0;      ///< the file never grows beyond
  uint64_t reserve_bytes = 0;  ///< free space that the file system keeps
};

/// Memory that is a new file: allocated from front to back, filled through the mapping, then made
/// read-only, written out and renamed into place. Space on the disk is taken before memory is
/// handed out, so a full disk is an error here and not a signal later. Until Commit the file has
/// the name PATH.tmp and a lock that its writer holds: what a killed process leaves behind can be
/// told from what is being written, and is reused by the next writer of PATH.
///
/// Allocate and MakeReadOnly: one thread. After MakeReadOnly another thread may do the rest.
class FileArena {
 public:
  /// Errors: kUnavailable where another process writes the same file, kIo.
  static Result<std::unique_ptr<FileArena>> Create(const std::filesystem::path& path,
                                                   const FileArenaOptions& options);
  FileArena(const FileArena&) = delete;
  FileArena& operator=(const FileArena&) = delete;
  /// Removes the file unless it was committed; the memory goes too.
  ~FileArena();

  const std::filesystem::path& path() const { return path_; }
  /// The next bytes of the file, at a multiple of 64, zero. Errors: kResourceExhausted (a bound of
  /// the options, a full disk, a limit of the process), kIo.
  Result<std::span<std::byte>> Allocate(size_t size_bytes);
  /// Bytes allocated so far.
  std::span<const std::byte> bytes() const { return mapping_.bytes().first(used_bytes_); }
  void MakeReadOnly() { mapping_.MakeReadOnly(); }
  /// Writes at an offset, which may be beyond what was allocated. Errors: kIo.
  Status WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  /// Cuts the file to `size_bytes`, waits until all of it is on the disk and renames it into place.
  /// `stop` is asked now and then. Errors: kIo; kCancelled after stop() was true.
  Status Commit(uint64_t size_bytes, const std::function<bool()>& stop);

 private:
  FileArena() = default;
  Error Failed(std::string_view what, int error_number) const;
  Status Grow(uint64_t needed_bytes);

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty once committed
  FileArenaOptions options_;
  FileDescriptor fd_;
  FileMapping mapping_;
  size_t used_bytes_ = 0;
  uint64_t file_bytes_ = 0;
};

/// Takes the lock of an open file without waiting; false where another process has it, or the file
/// system has no locks. `exclusive` keeps everybody out, otherwise those who want it exclusively.
bool TryLockFile(int fd, bool exclusive);

}  // namespace halfmoon
