// SPDX-License-Identifier: Apache-2.0
// One process at a time fetches a file.
#pragma once

#include <filesystem>
#include <functional>

#include "base/result.h"

namespace halfmoon::hub {

/// An advisory lock on a file of its own (flock, which the hubs' Python tools take too). Move-only;
/// the destructor gives it back. The file stays, empty: removing it would race with who waits.
class FileLock {
 public:
  /// Makes the file and its folders where they are missing and waits for the lock. `on_wait` (may
  /// be empty) is called about ten times a second while another holds it; false gives up with
  /// kCancelled. Errors: kIo.
  static Result<FileLock> Take(const std::filesystem::path& path,
                               const std::function<bool()>& on_wait);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace halfmoon::hub
