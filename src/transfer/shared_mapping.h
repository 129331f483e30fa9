// SPDX-License-Identifier: Apache-2.0
// A peer's memory file in this process, for reading.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace halfmoon::transfer {

/// Immutable; the mapping goes with it.
class SharedMapping {
 public:
  /// `file` comes from a peer: it has to be sealed against shrinking and to hold the bytes that the
  /// peer says, so that no access past its end can stop this process. Errors: kUnavailable.
  static Result<std::shared_ptr<const SharedMapping>> Map(const FileDescriptor& file,
                                                          uint64_t offset, uint64_t size);
  ~SharedMapping();
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit SharedMapping(std::span<const std::byte> bytes) : bytes_(bytes) {}
  const std::span<const std::byte> bytes_;
};

}  // namespace halfmoon::transfer
