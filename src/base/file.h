// SPDX-License-Identifier: Apache-2.0
// Files: whole reads, read-only mappings, atomic writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon {

/// Reads a whole text file. Errors: kNotFound, kIo, kResourceExhausted above `max_bytes`.
Result<std::string> ReadTextFile(const std::filesystem::path& path, size_t max_bytes);

/// Writes `content` beside `path` and renames it over, so a reader sees the old file or the new one
/// whole.
Status WriteFileAtomic(const std::filesystem::path& path, std::string_view content);

/// What tells a file from a changed or another one without reading it. The device is left out: its
/// number changes between boots and mounts.
struct FileIdentity {
  uint64_t size_bytes = 0;
  uint64_t inode = 0;
  int64_t modified_ns = 0;  ///< since 1970
  bool operator==(const FileIdentity&) const = default;
};

/// Errors: kNotFound, kIo, kInvalidArgument where it is no regular file.
Result<FileIdentity> IdentityOf(const std::filesystem::path& path);

/// A file mapped read-only. Move-only; the mapping lives as long as the object. Immutable.
///
/// A file that shrinks while mapped raises SIGBUS on access past its new end; halfmoon, like its
/// peers, does not defend against a model file being truncated under a running server.
class MappedFile {
 public:
  /// Errors: kNotFound, kIo. An empty file maps to an empty span.
  static Result<MappedFile> Open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Of the file that is mapped, when it was.
  const FileIdentity& identity() const { return identity_; }

  /// Tells the kernel that [offset, offset + length) is wanted soon. A hint: errors are ignored.
  void WillNeed(size_t offset, size_t length) const;
  /// Tells the kernel to read only the pages that are touched, not those around them. A hint.
  void NoReadAround() const;
  /// Gives back the memory of pages that were touched: they stay in the system's cache, as long as
  /// that has room, and come back when they are touched again. A hint.
  void Release() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  FileIdentity identity_;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace halfmoon
