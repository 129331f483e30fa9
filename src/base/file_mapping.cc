// SPDX-License-Identifier: Apache-2.0
#include "base/file_mapping.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace halfmoon {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kAlignment = 64;
// Few calls for a large file, little to give back for a small one.
constexpr uint64_t kGrowthBytes = uint64_t{64} << 20;
// Between two questions whether to go on.
constexpr uint64_t kSyncBytes = uint64_t{64} << 20;

Error IoError(std::string_view what, int error_number) {
  return Error(ErrorCode::kIo, std::string(what) + ": " + std::strerror(error_number));
}

}  // namespace

Result<FileMapping> FileMapping::Map(int fd, size_t size_bytes, bool writable) {
  FileMapping mapping;
  if (size_bytes == 0) return mapping;
  if (size_bytes > SIZE_MAX / 2) return IoError("cannot map", ENOMEM);
  // Address space first, with room to move the start to a huge page.
  const size_t reserved = size_bytes + kHugePageBytes;
  void* space =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return IoError("cannot map", errno);
  auto* begin = static_cast<std::byte*>(space);
  const size_t head =
      (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  void* mapped = ::mmap(begin + head, size_bytes, PROT_READ | (writable ? PROT_WRITE : 0),
                        MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0);
  const int error_number = errno;
  if (mapped == MAP_FAILED) {
    (void)::munmap(space, reserved);
    return IoError("cannot map", error_number);
  }
  if (head > 0) (void)::munmap(begin, head);
  const auto page_bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::byte* unused = begin + head + (size_bytes + page_bytes - 1) / page_bytes * page_bytes;
  const std::byte* end = begin + reserved;
  if (unused < end) (void)::munmap(unused, static_cast<size_t>(end - unused));
  mapping.data_ = begin + head;
  mapping.size_bytes_ = size_bytes;
  // Lets the page cache hold the file in huge pages, where the file system can.
  (void)::madvise(mapping.data_, size_bytes, MADV_HUGEPAGE);
  return mapping;
}

FileMapping::FileMapping(FileMapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

FileMapping& FileMapping::operator=(FileMapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

FileMapping::~FileMapping() {
  if (data_ != nullptr) (void)::munmap(data_, size_bytes_);
}

void FileMapping::MakeReadOnly() {
  if (data_ != nullptr) (void)::mprotect(data_, size_bytes_, PROT_READ);
}

void FileMapping::Populate(size_t offset, size_t length) const {
  if (offset >= size_bytes_) return;
  std::byte* begin = data_ + offset;
  const size_t count = std::min(length, size_bytes_ - offset);
#ifdef MADV_POPULATE_READ
  // Faults as the program's own would be: into huge pages, where the file system has them.
  if (::madvise(begin, count, MADV_POPULATE_READ) == 0) return;
#endif
  (void)::madvise(begin, count, MADV_WILLNEED);
}

Result<std::unique_ptr<FileArena>> FileArena::Create(const std::filesystem::path& path,
                                                     const FileArenaOptions& options) {
  std::unique_ptr<FileArena> arena(new FileArena);
  arena->path_ = path;
  arena->options_ = options;
  const std::filesystem::path temporary = path.string() + ".tmp";
  // Who cleans up may remove the name between the two calls; then the lock is of no use.
  constexpr int kTries = 8;
  for (int i = 0; i < kTries; ++i) {
    FileDescriptor fd(::open(temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (fd.get() < 0) return arena->Failed("cannot create", errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return arena->Failed("the file system offers no locks", errno);
      return Error(ErrorCode::kUnavailable, path.string() + ": another process writes it");
    }
    struct stat held{};
    struct stat named{};
    if (::fstat(fd.get(), &held) != 0 || ::stat(temporary.c_str(), &named) != 0 ||
        held.st_ino != named.st_ino || held.st_dev != named.st_dev) {
      continue;
    }
    arena->fd_ = std::move(fd);
    arena->temporary_ = temporary;
    if (::ftruncate(arena->fd_.get(), 0) != 0) return arena->Failed("cannot empty", errno);
    Result<FileMapping> mapping =
        FileMapping::Map(arena->fd_.get(), options.capacity_bytes, /*writable=*/true);
    if (!mapping.ok()) return mapping.error().WithContext(path.string());
    arena->mapping_ = std::move(mapping).value();
    return arena;
  }
  return Error(ErrorCode::kUnavailable, path.string() + ": its temporary file keeps vanishing");
}

FileArena::~FileArena() {
  // While the lock is still held, so that no other writer's file can go.
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error FileArena::Failed(std::string_view what, int error_number) const {
  return IoError(path_.string() + ": " + std::string(what), error_number);
}

Status FileArena::Grow(uint64_t needed_bytes) {
  const auto full = [&](std::string_view what) {
    return Error(ErrorCode::kResourceExhausted, path_.string() + ": " + std::string(what));
  };
  if (needed_bytes > options_.max_bytes) return full("larger than the budget");
  struct rlimit limit{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  // Beyond that limit the system would send a signal.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && needed_bytes > limit.rlim_cur) {
    return full("larger than this process may write (ulimit -f)");
  }
  uint64_t target = std::min<uint64_t>(
      {needed_bytes + kGrowthBytes, options_.max_bytes, uint64_t{limit.rlim_cur}});
  struct statvfs system{};
  if (::fstatvfs(fd_.get(), &system) != 0) return Failed("cannot stat the file system", errno);
  const uint64_t free_bytes = uint64_t{system.f_bavail} * system.f_frsize;
  const uint64_t usable =
      free_bytes > options_.reserve_bytes ? free_bytes - options_.reserve_bytes : 0;
  target = std::min(target, file_bytes_ + usable);
  if (target < needed_bytes) return full("the disk is too full for it");
  int error_number = 0;
  do {
    error_number = ::posix_fallocate(fd_.get(), static_cast<off_t>(file_bytes_),
                                     static_cast<off_t>(target - file_bytes_));
  } while (error_number == EINTR);
  if (error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG) {
    return full(std::strerror(error_number));
  }
  if (error_number != 0) return Failed("cannot reserve space", error_number);
  file_bytes_ = target;
  return {};
}

Result<std::span<std::byte>> FileArena::Allocate(size_t size_bytes) {
  const size_t begin = (used_bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  if (size_bytes > mapping_.size_bytes() || begin > mapping_.size_bytes() - size_bytes) {
    return Error(ErrorCode::kResourceExhausted, path_.string() + ": larger than was foreseen");
  }
  const size_t end = begin + size_bytes;
  if (end > file_bytes_) HM_TRY(Grow(end));
  used_bytes_ = end;
  return std::span(mapping_.data() + begin, size_bytes);
}

Status FileArena::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Failed("cannot write", errno);
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return {};
}

Status FileArena::Commit(uint64_t size_bytes, const std::function<bool()>& stop) {
  const int fd = fd_.get();
  if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) return Failed("cannot cut", errno);
  for (uint64_t begin = 0; begin < size_bytes; begin += kSyncBytes) {
    if (stop && stop()) return Error(ErrorCode::kCancelled, path_.string() + ": not written");
    // Only to wait in pieces; what counts is the call below.
    (void)::sync_file_range(
        fd, static_cast<off_t>(begin), static_cast<off_t>(std::min(kSyncBytes, size_bytes - begin)),
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  }
  if (::fsync(fd) != 0) return Failed("cannot sync", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return Failed("cannot rename into place", errno);
  }
  temporary_.clear();
  // The name has to outlive a crash too.
  const FileDescriptor folder(
      ::open(path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) (void)::fsync(folder.get());
  // A user of the file like any other from here on.
  (void)TryLockFile(fd, /*exclusive=*/false);
  return {};
}

bool TryLockFile(int fd, bool exclusive) {
  while (::flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

}  // namespace halfmoon
