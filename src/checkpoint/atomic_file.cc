// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace halfmoon::checkpoint {

Result<AtomicFile> AtomicFile::Create(const std::filesystem::path& path) {
  AtomicFile file;
  file.path_ = path;
  std::string temporary = path.string() + ".XXXXXX";
  file.fd_ = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (file.fd_ < 0) return file.Failed("cannot create a temporary file beside it");
  file.temporary_ = std::move(temporary);
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    Discard();
    path_ = std::move(other.path_);
    temporary_ = std::exchange(other.temporary_, {});
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

AtomicFile::~AtomicFile() { Discard(); }

void AtomicFile::Discard() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  fd_ = -1;
  temporary_.clear();
}

Error AtomicFile::Failed(std::string_view what) const {
  return Error(ErrorCode::kIo,
               path_.string() + ": " + std::string(what) + ": " + std::strerror(errno));
}

Status AtomicFile::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Failed("cannot write");
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return {};
}

Status AtomicFile::Commit() {
  if (::fchmod(fd_, 0644) != 0) return Failed("cannot set the mode");
  if (::fsync(fd_) != 0) return Failed("cannot sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("cannot rename into place");
  temporary_.clear();
  return {};
}

}  // namespace halfmoon::checkpoint
