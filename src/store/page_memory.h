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
#include <span>
#include <utility>
#include <variant>

#include "base/result.h"
#include "base/shared_memory.h"
#include "tensor/tensor.h"

namespace halfmoon::store {

enum class PageSharing {
  kPrivate,
  kShared,  ///< a memory file, which other processes of this host can map
};

/// One arena of equal pages, zeroed at start; page i starts at base() + i * page_bytes. Untouched
/// pages cost no memory.
class PageMemory {
 public:
  /// Requires num_pages >= 0 and page_bytes > 0. Errors: kResourceExhausted where the address space
  /// or the system has no room; kIo where the system refuses a memory file.
  static Result<PageMemory> Create(int32_t num_pages, size_t page_bytes,
                                   PageSharing sharing = PageSharing::kPrivate);

  std::byte* base() { return bytes().data(); }
  std::span<std::byte> bytes();
  /// The memory file; -1 where pages are private.
  int file() const;

 private:
  explicit PageMemory(tensor::AlignedBuffer buffer) : buffer_(std::move(buffer)) {}
  explicit PageMemory(SharedMemory shared) : buffer_(std::move(shared)) {}

  std::variant<tensor::AlignedBuffer, SharedMemory> buffer_;
};

}  // namespace halfmoon::store
