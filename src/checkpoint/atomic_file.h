// SPDX-License-Identifier: Apache-2.0
// A large file written front to back that appears at its path whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "base/result.h"

namespace halfmoon::checkpoint {

/// Data goes to a temporary file beside the path, which Commit renames; an object destroyed before
/// leaves nothing. Move-only, one thread at a time.
class AtomicFile {
 public:
  /// Errors: kIo.
  static Result<AtomicFile> Create(const std::filesystem::path& path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  const std::filesystem::path& path() const { return path_; }

  /// Errors: kIo.
  Status Write(std::span<const std::byte> bytes);
  /// Syncs and renames into place. Errors: kIo. Call once, last.
  Status Commit();

 private:
  AtomicFile() = default;
  Error Failed(std::string_view what) const;
  void Discard();

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace halfmoon::checkpoint
