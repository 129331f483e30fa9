// SPDX-License-Identifier: Apache-2.0
// store: the bytes of KV: page memory, and the copies that a tiered store (tiered_store.h) keeps of
// blocks in memory and on disk. Which page or slot holds what is kv's business, and what is worth
// keeping or fetching its callers'. A tiered store has one thread, which moves all bytes.
//
// Page memory is immutable after creation except for the bytes themselves, which the thread that
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
