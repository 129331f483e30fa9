// SPDX-License-Identifier: Apache-2.0
#include "base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace halfmoon {
namespace {

Error Refused(const std::string& name, const char* call) {
  const bool memory = errno == ENOMEM || errno == EFBIG || errno == ENOSPC;
  return Error(memory ? ErrorCode::kResourceExhausted : ErrorCode::kIo,
               "shared memory '" + name + "': " + call + ": " + std::strerror(errno));
}

}  // namespace

Result<SharedMemory> SharedMemory::Create(const std::string& name, size_t size_bytes) {
  FileDescriptor file(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (file.get() < 0) return Refused(name, "memfd_create");
  if (size_bytes == 0) return SharedMemory(std::move(file), {});
  if (::ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) {
    return Refused(name, "ftruncate");
  }
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Refused(name, "sealing");
  }
  void* mapped = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        file.get(), 0);
  if (mapped == MAP_FAILED) return Refused(name, "mmap");
  // Only a wish: the system may not have huge pages for shared memory.
  (void)::madvise(mapped, size_bytes, MADV_HUGEPAGE);
  return SharedMemory(std::move(file), {static_cast<std::byte*>(mapped), size_bytes});
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) (void)::munmap(bytes_.data(), bytes_.size());
}

}  // namespace halfmoon
