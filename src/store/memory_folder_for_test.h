// SPDX-License-Identifier: Apache-2.0
// For tests: a folder in memory that fails where it is told to, and remembers what was done to it
// in order, so that a crash after any part of it can be played.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "store/segment_folder.h"
#include "store/segment_format.h"

namespace halfmoon::store {

using MemoryFiles = std::map<std::string, std::vector<std::byte>>;

/// One change of the files, in the order in which they reached the disk.
struct FolderChange {
  enum class Kind { kCreate, kWrite, kRename, kRemove };
  Kind kind = Kind::kWrite;
  std::string name;
  std::string to;  // of a rename
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
  uint64_t size_bytes = 0;  // of a creation

  /// `part` of a write's bytes; other changes happen whole or, at 0, not at all.
  void Apply(MemoryFiles* files, size_t part) const {
    switch (kind) {
      case Kind::kCreate:
        if (part > 0) (*files)[name].resize(size_bytes);
        break;
      case Kind::kWrite: {
        std::vector<std::byte>& file = files->at(name);
        const size_t count = std::min(part, bytes.size());
        if (file.size() < offset + count) file.resize(offset + count);
        std::copy_n(bytes.begin(), count, file.begin() + static_cast<ptrdiff_t>(offset));
        break;
      }
      case Kind::kRename:
        if (part > 0) {
          (*files)[to] = std::move(files->at(name));
          files->erase(name);
        }
        break;
      case Kind::kRemove:
        if (part > 0) files->erase(name);
        break;
    }
  }
};

/// What outlives a store, as a disk does. Used by one thread at a time.
struct MemoryDisk {
  MemoryFiles files;
  std::vector<FolderChange> changes;
  /// Asked before each transfer; an error is its end. A write that fails has written its first
  /// half.
  std::function<Status(const DiskTransfer&)> fail_transfer;
  /// Asked before a file is made.
  std::function<Status()> fail_create;

  uint64_t size_bytes() const {
    uint64_t sum = 0;
    for (const auto& [name, bytes] : files) sum += bytes.size();
    return sum;
  }
  void Do(const FolderChange& change, size_t part = SIZE_MAX) {
    changes.push_back(change);
    change.Apply(&files, part);
  }
};

/// Transfers happen when their end is asked for, the last one started first.
class MemoryFolder final : public SegmentFolder {
 public:
  explicit MemoryFolder(std::shared_ptr<MemoryDisk> disk, size_t depth = 4)
      : disk_(std::move(disk)), depth_(depth) {}

  Result<std::vector<File>> List() override {
    std::vector<File> files;
    for (const auto& [name, bytes] : disk_->files) files.push_back({name, bytes.size()});
    return files;
  }
  Result<FileId> Create(const std::string& name, uint64_t size_bytes) override {
    if (disk_->fail_create) HM_TRY(disk_->fail_create());
    disk_->Do({.kind = FolderChange::Kind::kCreate, .name = name, .size_bytes = size_bytes});
    return Open(name);
  }
  Result<FileId> Open(const std::string& name) override {
    if (!disk_->files.contains(name)) return Error(ErrorCode::kNotFound, name);
    const FileId id{next_file_++};
    names_[id] = name;
    return id;
  }
  void Close(FileId file) override { names_.erase(file); }
  Status Rename(const std::string& from, const std::string& to) override {
    disk_->Do({.kind = FolderChange::Kind::kRename, .name = from, .to = to});
    for (auto& [id, name] : names_) {
      if (name == from) name = to;
    }
    return {};
  }
  Status Remove(const std::string& name) override {
    disk_->Do({.kind = FolderChange::Kind::kRemove, .name = name});
    return {};
  }

  void Start(const DiskTransfer& transfer) override {
    HM_CHECK(pending() < depth());
    HM_CHECK(transfer.offset % kDiskAlignment == 0 && transfer.size_bytes % kDiskAlignment == 0);
    HM_CHECK(reinterpret_cast<uintptr_t>(transfer.buffer) % kDiskAlignment == 0);
    started_.push_back(transfer);
  }
  std::optional<DiskTransferDone> TryNext() override {
    if (started_.empty()) return std::nullopt;
    return Next();
  }
  DiskTransferDone Next() override {
    const DiskTransfer transfer = started_.back();
    started_.pop_back();
    return {.tag = transfer.tag, .status = Move(transfer)};
  }
  size_t pending() const override { return started_.size(); }
  size_t depth() const override { return depth_; }
  std::string path() const override { return "memory"; }
  std::string method() const override { return "memory"; }

 private:
  Status Move(const DiskTransfer& transfer) {
    Status failed;
    if (disk_->fail_transfer) failed = disk_->fail_transfer(transfer);
    const std::string& name = names_.at(transfer.file);
    if (transfer.kind == DiskTransfer::Kind::kWrite) {
      disk_->Do({.kind = FolderChange::Kind::kWrite,
                 .name = name,
                 .offset = transfer.offset,
                 .bytes = {transfer.buffer, transfer.buffer + transfer.size_bytes}},
                failed.ok() ? transfer.size_bytes : transfer.size_bytes / 2);
      return failed;
    }
    HM_TRY(failed);
    const std::vector<std::byte>& file = disk_->files.at(name);
    if (file.size() < transfer.offset + transfer.size_bytes) {
      return Error(ErrorCode::kIo, name + ": the file ends there");
    }
    std::memcpy(transfer.buffer, file.data() + transfer.offset, transfer.size_bytes);
    return {};
  }

  const std::shared_ptr<MemoryDisk> disk_;
  const size_t depth_;
  int32_t next_file_ = 0;
  std::map<FileId, std::string> names_;
  std::vector<DiskTransfer> started_;
};

}  // namespace halfmoon::store
