// SPDX-License-Identifier: Apache-2.0
// Memory that other processes of this host can map.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace halfmoon {

/// A memory file, mapped. Zeroed; untouched parts cost no memory; it can neither shrink nor grow
/// (file seals), so that who maps it cannot be left with a hole. Move-only; the file lives until
/// the last process has closed it.
class SharedMemory {
 public:
  /// `name` is what /proc shows. Errors: kResourceExhausted, kIo.
  static Result<SharedMemory> Create(const std::string& name, size_t size_bytes);
  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept
      : file_(std::move(other.file_)), bytes_(std::exchange(other.bytes_, {})) {}
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  std::span<std::byte> bytes() { return bytes_; }
  int file() const { return file_.get(); }

 private:
  SharedMemory(FileDescriptor file, std::span<std::byte> bytes)
      : file_(std::move(file)), bytes_(bytes) {}

  FileDescriptor file_;
  std::span<std::byte> bytes_;
};

}  // namespace halfmoon
