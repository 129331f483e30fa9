// SPDX-License-Identifier: Apache-2.0
#include "hub/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

namespace halfmoon::hub {

Result<FileLock> FileLock::Take(const std::filesystem::path& path,
                                const std::function<bool()>& on_wait) {
  std::error_code made;
  std::filesystem::create_directories(path.parent_path(), made);
  if (made) {
    return Error(ErrorCode::kIo,
                 path.parent_path().string() + ": cannot create the folder: " + made.message());
  }
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) {
      return Error(ErrorCode::kIo, path.string() + ": cannot open: " + std::strerror(errno));
    }
    FileLock lock(fd);
    while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) {
        // Without a lock two writers could mix; some network file systems have none.
        return Error(ErrorCode::kIo, path.string() + ": the file system offers no locks (" +
                                         std::strerror(errno) + "); keep the cache on another one");
      }
      if (on_wait && !on_wait()) return Error(ErrorCode::kCancelled, "interrupted");
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    // Some tools remove the file when they are done; then this lock keeps nobody out.
    struct stat held{};
    struct stat named{};
    if (::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      return lock;
    }
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace halfmoon::hub
