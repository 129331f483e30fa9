// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace halfmoon {
namespace {

Error ErrnoError(const std::filesystem::path& path, std::string_view what, int error_number) {
  const ErrorCode code = error_number == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  return Error(code, path.string() + ": " + std::string(what) + ": " + std::strerror(error_number));
}

/// Closes on the way out.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Opens a regular file for reading and tells its size.
Result<std::pair<int, size_t>> OpenForRead(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(path, "cannot open", errno);
  struct stat info{};
  if (::fstat(fd, &info) != 0) {
    const int error_number = errno;
    ::close(fd);
    return ErrnoError(path, "cannot stat", error_number);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return Error(ErrorCode::kInvalidArgument, path.string() + ": not a regular file");
  }
  return std::pair(fd, static_cast<size_t>(info.st_size));
}

}  // namespace

Result<std::string> ReadTextFile(const std::filesystem::path& path, size_t max_bytes) {
  HM_ASSIGN(auto opened, OpenForRead(path));
  const FileDescriptor fd(opened.first);
  if (opened.second > max_bytes) {
    return Error(ErrorCode::kResourceExhausted,
                 path.string() + ": " + std::to_string(opened.second) + " bytes, more than the " +
                     std::to_string(max_bytes) + " read at most");
  }
  std::string text(opened.second, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(path, "cannot read", errno);
    if (got == 0) break;  // The file shrank since fstat: what is there is what it holds.
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

Status WriteFileAtomic(const std::filesystem::path& path, std::string_view content) {
  std::string temporary = path.string() + ".XXXXXX";
  const FileDescriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (fd.get() < 0) return ErrnoError(path, "cannot create a temporary file beside it", errno);
  auto fail = [&](std::string_view what) {
    const int error_number = errno;
    ::unlink(temporary.c_str());
    return ErrnoError(path, what, error_number);
  };
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t put = ::write(fd.get(), content.data() + done, content.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail("cannot write");
    done += static_cast<size_t>(put);
  }
  if (::fchmod(fd.get(), 0644) != 0) return fail("cannot set the mode");
  if (::fsync(fd.get()) != 0) return fail("cannot sync");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail("cannot rename into place");
  return {};
}

Result<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  HM_ASSIGN(auto opened, OpenForRead(path));
  const FileDescriptor fd(opened.first);
  MappedFile file;
  file.path_ = path;
  file.size_bytes_ = opened.second;
  if (opened.second == 0) return file;
  void* data = ::mmap(nullptr, opened.second, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoError(path, "cannot map", errno);
  file.data_ = static_cast<const std::byte*>(data);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

void MappedFile::WillNeed(size_t offset, size_t length) const {
  if (offset >= size_bytes_) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = std::min(size_bytes_, offset + std::min(length, size_bytes_ - offset));
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
}

void MappedFile::NoReadAround() const {
  if (size_bytes_ > 0) {
    (void)::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_RANDOM);
  }
}

}  // namespace halfmoon
