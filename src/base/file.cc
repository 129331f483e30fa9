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

#include "base/file_descriptor.h"

namespace halfmoon {
namespace {

Error ErrnoError(const std::filesystem::path& path, std::string_view what, int error_number) {
  const ErrorCode code = error_number == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  return Error(code, path.string() + ": " + std::string(what) + ": " + std::strerror(error_number));
}

FileIdentity IdentityFrom(const struct stat& info) {
  return {.size_bytes = static_cast<uint64_t>(info.st_size),
          .inode = static_cast<uint64_t>(info.st_ino),
          .modified_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

struct OpenedFile {
  FileDescriptor fd;
  FileIdentity identity;
};

/// Opens a regular file for reading.
Result<OpenedFile> OpenForRead(const std::filesystem::path& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoError(path, "cannot open", errno);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return ErrnoError(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, path.string() + ": not a regular file");
  }
  return OpenedFile{.fd = std::move(fd), .identity = IdentityFrom(info)};
}

}  // namespace

Result<std::string> ReadTextFile(const std::filesystem::path& path, size_t max_bytes) {
  HM_ASSIGN(const OpenedFile opened, OpenForRead(path));
  const size_t size_bytes = opened.identity.size_bytes;
  if (size_bytes > max_bytes) {
    return Error(ErrorCode::kResourceExhausted, path.string() + ": " + std::to_string(size_bytes) +
                                                    " bytes, more than the " +
                                                    std::to_string(max_bytes) + " read at most");
  }
  std::string text(size_bytes, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(opened.fd.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(path, "cannot read", errno);
    if (got == 0) break;  // The file shrank since fstat: what is there is what it holds.
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

Result<FileIdentity> IdentityOf(const std::filesystem::path& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return ErrnoError(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, path.string() + ": not a regular file");
  }
  return IdentityFrom(info);
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
  HM_ASSIGN(const OpenedFile opened, OpenForRead(path));
  MappedFile file;
  file.path_ = path;
  file.identity_ = opened.identity;
  file.size_bytes_ = opened.identity.size_bytes;
  if (file.size_bytes_ == 0) return file;
  void* data = ::mmap(nullptr, file.size_bytes_, PROT_READ, MAP_SHARED, opened.fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoError(path, "cannot map", errno);
  file.data_ = static_cast<const std::byte*>(data);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      identity_(other.identity_),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(identity_, other.identity_);
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

void MappedFile::Release() const {
  if (size_bytes_ > 0) {
    (void)::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_DONTNEED);
  }
}

void MappedFile::NoReadAround() const {
  if (size_bytes_ > 0) {
    (void)::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_RANDOM);
  }
}

}  // namespace halfmoon
