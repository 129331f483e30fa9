// SPDX-License-Identifier: Apache-2.0
#include "store/page_memory.h"

#include <new>
#include <string>
#include <utility>

#include "base/check.h"

namespace halfmoon::store {

Result<PageMemory> PageMemory::Create(int32_t num_pages, size_t page_bytes) {
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
  try {
    return PageMemory(tensor::AlignedBuffer(size_bytes));
  } catch (const std::bad_alloc&) {
    return no_room();
  }
}

}  // namespace halfmoon::store
