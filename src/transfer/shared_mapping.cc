// SPDX-License-Identifier: Apache-2.0
#include "transfer/shared_mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace halfmoon::transfer {

namespace {

Error Unfit(const std::string& what) {
  return Error(ErrorCode::kUnavailable, "the peer's memory file " + what);
}

}  // namespace

Result<std::shared_ptr<const SharedMapping>> SharedMapping::Map(const FileDescriptor& file,
                                                                uint64_t offset, uint64_t size) {
  // The seal first: from then on the size cannot get smaller.
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return Unfit("is not sealed against shrinking");
  struct stat status = {};
  if (fstat(file.get(), &status) != 0) return Unfit(std::strerror(errno));
  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  if (offset % 4096 != 0 || offset > file_bytes || size > file_bytes - offset) {
    return Unfit("has " + std::to_string(file_bytes) + " bytes, not " + std::to_string(size) +
                 " at " + std::to_string(offset));
  }
  void* const memory = mmap(nullptr, std::max<uint64_t>(size, 1), PROT_READ, MAP_SHARED, file.get(),
                            static_cast<off_t>(offset));
  if (memory == MAP_FAILED) return Unfit(std::string("cannot be mapped: ") + std::strerror(errno));
  std::unique_ptr<SharedMapping> mapping(
      new SharedMapping({static_cast<const std::byte*>(memory), size}));
  return std::shared_ptr<const SharedMapping>(std::move(mapping));
}

SharedMapping::~SharedMapping() {
  munmap(const_cast<std::byte*>(bytes_.data()), std::max<size_t>(bytes_.size(), 1));
}

}  // namespace halfmoon::transfer
