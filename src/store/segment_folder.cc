// SPDX-License-Identifier: Apache-2.0
#include "store/segment_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/file_descriptor.h"
#include "base/file_transfers.h"

namespace halfmoon::store {
namespace {

Error Failure(const std::string& what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  return Error(full ? ErrorCode::kResourceExhausted : ErrorCode::kIo,
               what + ": " + (error == ENODATA ? "the file ends there" : std::strerror(error)));
}

class DiskFolder final : public SegmentFolder {
 public:
  DiskFolder(SegmentFolderOptions options, FileDescriptor lock)
      : options_(std::move(options)),
        lock_(std::move(lock)),
        transfers_(NewFileTransfers(options_.depth, options_.allow_io_uring)) {}
  DiskFolder(const DiskFolder&) = delete;
  DiskFolder& operator=(const DiskFolder&) = delete;
  ~DiskFolder() override { transfers_.reset(); }

  Result<std::vector<File>> List() override {
    std::vector<File> files;
    std::error_code error;
    std::filesystem::directory_iterator entries(options_.path, error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
      // A link may lead anywhere; segments are never links.
      std::error_code skipped;
      if (entries->is_symlink(skipped) || !entries->is_regular_file(skipped)) continue;
      const uint64_t size = entries->file_size(skipped);
      if (!skipped) files.push_back({.name = entries->path().filename(), .size_bytes = size});
    }
    if (error) return Failure(options_.path.string() + ": cannot list", error.value());
    std::ranges::sort(files, {}, &File::name);
    return files;
  }

  Result<FileId> Create(const std::string& name, uint64_t size_bytes) override {
    HM_ASSIGN(FileDescriptor fd, OpenFile(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW));
    // Taken at once, so that a full disk is met here and not by a write. Some file systems cannot;
    // there the file grows as it is written.
    const int error = ::fallocate(fd.get(), 0, 0, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
    if (error != 0 && error != EOPNOTSUPP && error != ENOSYS) {
      (void)Remove(name);
      return Failure(PathOf(name) + ": cannot take " + std::to_string(size_bytes) + " bytes",
                     error);
    }
    if (error != 0 && ::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
      const int cause = errno;
      (void)Remove(name);
      return Failure(PathOf(name) + ": cannot set its size", cause);
    }
    return Keep(name, std::move(fd));
  }
  Result<FileId> Open(const std::string& name) override {
    HM_ASSIGN(FileDescriptor fd, OpenFile(name, O_RDWR | O_NOFOLLOW));
    return Keep(name, std::move(fd));
  }
  void Close(FileId file) override { files_.erase(file); }
  Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(PathOf(from).c_str(), PathOf(to).c_str()) == 0) return {};
    return Failure(PathOf(from) + ": cannot rename to " + to, errno);
  }
  Status Remove(const std::string& name) override {
    if (::unlink(PathOf(name).c_str()) == 0 || errno == ENOENT) return {};
    return Failure(PathOf(name) + ": cannot remove", errno);
  }

  void Start(const DiskTransfer& transfer) override {
    const OpenedFile& file = files_.at(transfer.file);
    const bool reads = transfer.kind == DiskTransfer::Kind::kRead;
    tags_[transfer.tag] = (reads ? "cannot read " : "cannot write ") +
                          std::to_string(transfer.size_bytes) + " bytes at offset " +
                          std::to_string(transfer.offset) + " of " + PathOf(file.name);
    transfers_->Start({.tag = transfer.tag,
                       .kind = reads ? FileTransfer::Kind::kRead : FileTransfer::Kind::kWrite,
                       .fd = file.fd.get(),
                       .offset = transfer.offset,
                       .size_bytes = transfer.size_bytes,
                       .buffer = transfer.buffer});
  }
  std::optional<DiskTransferDone> TryNext() override {
    const std::optional<FileTransferDone> done = transfers_->TryNext();
    if (!done.has_value()) return std::nullopt;
    return Describe(*done);
  }
  DiskTransferDone Next() override { return Describe(transfers_->Next()); }
  size_t pending() const override { return transfers_->pending(); }
  size_t depth() const override { return static_cast<size_t>(options_.depth); }

  std::string path() const override { return options_.path.string(); }
  std::string method() const override {
    return transfers_->method() + (direct_ ? ", direct I/O" : ", through the page cache");
  }

 private:
  struct OpenedFile {
    std::string name;
    FileDescriptor fd;
  };

  std::string PathOf(const std::string& name) const { return (options_.path / name).string(); }

  Result<FileDescriptor> OpenFile(const std::string& name, int flags) {
    const std::string path = PathOf(name);
    // What a file system without O_DIRECT answers; a file that was to be made may be there then.
    int fd = direct_ ? ::open(path.c_str(), flags | O_CLOEXEC | O_DIRECT, 0600) : -1;
    if (fd < 0 && (!direct_ || errno == EINVAL)) {
      direct_ = false;
      fd = ::open(path.c_str(), (flags & ~O_EXCL) | O_CLOEXEC, 0600);
    }
    if (fd >= 0) return FileDescriptor(fd);
    if (errno == ENOENT) return Error(ErrorCode::kNotFound, path + ": is not there");
    return Failure(path + ": cannot open", errno);
  }
  FileId Keep(const std::string& name, FileDescriptor fd) {
    const FileId id{next_file_++};
    files_.emplace(id, OpenedFile{.name = name, .fd = std::move(fd)});
    return id;
  }
  DiskTransferDone Describe(const FileTransferDone& done) {
    const auto it = tags_.find(done.tag);
    DiskTransferDone described{.tag = done.tag};
    if (done.error != 0) described.status = Failure(it->second, done.error);
    tags_.erase(it);
    return described;
  }

  const SegmentFolderOptions options_;
  const FileDescriptor lock_;
  bool direct_ = options_.allow_direct;
  int32_t next_file_ = 0;
  std::map<FileId, OpenedFile> files_;
  std::map<uint64_t, std::string> tags_;  // what each transfer in flight is
  std::unique_ptr<FileTransfers> transfers_;
};

}  // namespace

Result<std::unique_ptr<SegmentFolder>> OpenSegmentFolder(const SegmentFolderOptions& options) {
  std::error_code made;
  std::filesystem::create_directories(options.path, made);
  if (made) {
    return Failure(options.path.string() + ": cannot create the folder", made.value());
  }
  const std::string path = (options.path / "lock").string();
  FileDescriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (lock.get() < 0) return Failure(path + ": cannot open", errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return Error(ErrorCode::kUnavailable, options.path.string() +
                                                ": another halfmoon keeps its KV blocks here; give "
                                                "each process a folder of its own");
    }
    return Failure(path + ": cannot lock", errno);
  }
  return std::unique_ptr<SegmentFolder>(std::make_unique<DiskFolder>(options, std::move(lock)));
}

}  // namespace halfmoon::store
