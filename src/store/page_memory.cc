// SPDX-License-Identifier: Apache-2.0
#include "store/page_memory.h"

#include <new>
#include <string>
#include <utility>

#include "base/check.h"

namespace halfmoon::store {

Result<PageMemory> PageMemory::Create(int32_t num_pages, size_t page_bytes, PageSharing sharing) {
  HM_CHECK(num_pages >= 0, "num_pages " + std::to_string(num_pages));
  HM_CHECK(page_bytes > 0);
  const auto no_room = [&] {
    return Error(ErrorCode::kResourceExhausted, "no memory for " + std::to_string(num_pages) +
                                                    " KV pages of " + std::to_string(page_bytes) +
                                                    " bytes");
  };
  size_t size_bytes = 0;
  if (__builtin_mul_overflow(static_cast<size_t>(num_pages), page_bytes, &size_bytes)) {
    return no_room();
  }
  if (sharing == PageSharing::kShared) {
    HM_ASSIGN(SharedMemory shared, SharedMemory::Create("halfmoon-kv", size_bytes));
    return PageMemory(std::move(shared));
  }
  try {
    return PageMemory(tensor::AlignedBuffer(size_bytes));
  } catch (const std::bad_alloc&) {
    return no_room();
  }
}

std::span<std::byte> PageMemory::bytes() {
  if (auto* shared = std::get_if<SharedMemory>(&buffer_)) return shared->bytes();
  auto& buffer = std::get<tensor::AlignedBuffer>(buffer_);
  return {buffer.data(), buffer.size_bytes()};
}

int PageMemory::file() const {
  const auto* shared = std::get_if<SharedMemory>(&buffer_);
  return shared == nullptr ? -1 : shared->file();
}

}  // namespace halfmoon::store
