// SPDX-License-Identifier: Apache-2.0
// store: the bytes of KV. Today one tier, page memory in DRAM; which page holds what is kv's
// business. Immutable after creation except for the bytes themselves, which the thread that
// computes writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.h"
#include "tensor/tensor.h"

namespace halfmoon::store {

/// One arena of equal pages, zeroed at start; page i starts at base() + i * page_bytes. Untouched
/// pages cost no memory.
class PageMemory {
 public:
  /// Requires num_pages >= 0 and page_bytes > 0. Errors: kResourceExhausted where the address space
  /// or the system has no room.
  static Result<PageMemory> Create(int32_t num_pages, size_t page_bytes);

  std::byte* base() { return buffer_.data(); }

 private:
  explicit PageMemory(tensor::AlignedBuffer buffer) : buffer_(std::move(buffer)) {}

  tensor::AlignedBuffer buffer_;
};

}  // namespace halfmoon::store
