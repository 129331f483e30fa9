// SPDX-License-Identifier: Apache-2.0
#include "transfer/segment_table.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "net/digest.h"

namespace halfmoon::transfer {

namespace {

Error Invalid(const std::string& what) {
  return Error(ErrorCode::kInvalidArgument, "memory file of a segment: " + what);
}

// Opened anew, for reading only: a peer must not be able to write through what it is given.
Result<FileDescriptor> ReadOnly(int memory_file, uint64_t end_bytes) {
  struct stat status = {};
  if (fstat(memory_file, &status) != 0) return Invalid(std::strerror(errno));
  if (static_cast<uint64_t>(status.st_size) < end_bytes) {
    return Invalid("has " + std::to_string(status.st_size) + " bytes, the segment ends at " +
                   std::to_string(end_bytes));
  }
  const int seals = fcntl(memory_file, F_GET_SEALS);
  if (seals < 0) return Invalid("is no memory file (memfd_create)");
  if ((seals & F_SEAL_SHRINK) == 0 && fcntl(memory_file, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return Invalid("cannot be sealed against shrinking (MFD_ALLOW_SEALING)");
  }
  FileDescriptor file(
      ::open(("/proc/self/fd/" + std::to_string(memory_file)).c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    return Error(ErrorCode::kIo, std::string("memory file of a segment: open for reading: ") +
                                     std::strerror(errno));
  }
  return file;
}

}  // namespace

SegmentPin::~SegmentPin() {
  if (table_ != nullptr) table_->Unpin(segment_);
}

SegmentPin SegmentPin::Copy() const {
  table_->AddPin(segment_);
  SegmentPin copy;
  copy.table_ = table_;
  copy.segment_ = segment_;
  copy.memory_ = memory_;
  return copy;
}

Result<SegmentTable::Entry> SegmentTable::Add(std::span<const std::byte> memory, int memory_file,
                                              uint64_t file_offset) {
  Record record{.memory = memory, .file_offset = file_offset};
  if (memory_file >= 0) {
    if (file_offset % 4096 != 0 || file_offset > UINT64_MAX - memory.size()) {
      return Invalid("offset " + std::to_string(file_offset) + " is not one of a page");
    }
    HM_ASSIGN(record.file, ReadOnly(memory_file, file_offset + memory.size()));
  }
  HM_ASSIGN(record.secret, RandomSecret());
  std::lock_guard lock(mutex_);
  const Entry entry = {.segment = next_id_++, .secret = record.secret};
  records_.emplace(entry.segment, std::move(record));
  return entry;
}

std::optional<SegmentPin> SegmentTable::Pin(uint64_t segment, const Secret& secret) {
  std::lock_guard lock(mutex_);
  const auto found = records_.find(segment);
  if (found == records_.end() || found->second.closing) return std::nullopt;
  if (!net::SecretsEqual({secret.data(), secret.size()},
                         {found->second.secret.data(), found->second.secret.size()})) {
    return std::nullopt;
  }
  ++found->second.pins;
  SegmentPin pin;
  pin.table_ = this;
  pin.segment_ = segment;
  pin.memory_ = found->second.memory;
  return pin;
}

SharedFile SegmentTable::FileOf(const SegmentPin& pin) const {
  std::lock_guard lock(mutex_);
  const Record& record = records_.at(pin.segment());
  return {.fd = record.file.get(), .offset = record.file_offset};
}

bool SegmentTable::Close(uint64_t segment, TimeUs timeout_us) {
  std::unique_lock lock(mutex_);
  Record& record = records_.at(segment);
  record.closing = true;
  return unpinned_.wait_for(lock, std::chrono::microseconds(timeout_us),
                            [&] { return record.pins == 0; });
}

void SegmentTable::Remove(uint64_t segment) {
  std::lock_guard lock(mutex_);
  const auto found = records_.find(segment);
  HM_CHECK(found != records_.end(), "a segment is removed once");
  HM_CHECK(found->second.pins == 0, "a segment is removed while it is sent from");
  records_.erase(found);
}

size_t SegmentTable::size() const {
  std::lock_guard lock(mutex_);
  return records_.size();
}

void SegmentTable::AddPin(uint64_t segment) {
  std::lock_guard lock(mutex_);
  ++records_.at(segment).pins;
}

void SegmentTable::Unpin(uint64_t segment) {
  {
    std::lock_guard lock(mutex_);
    --records_.at(segment).pins;
  }
  unpinned_.notify_all();
}

}  // namespace halfmoon::transfer
