// SPDX-License-Identifier: Apache-2.0
// Element access of the generic kernels to KV pages. Not for files compiled for a wider ISA: the
// linker keeps one copy of inline functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/paged_kv.h"
#include "tensor/float16.h"

namespace halfmoon::kernels::generic {

inline float LoadElement(KvType type, const std::byte* bytes, int64_t index) {
  if (type == KvType::kF32) {
    float value;
    std::memcpy(&value, bytes + index * 4, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes + index * 2, sizeof(bits));
  return tensor::F16ToF32(bits);
}

inline void StoreElement(KvType type, float value, std::byte* bytes, int64_t index) {
  if (type == KvType::kF32) {
    std::memcpy(bytes + index * 4, &value, sizeof(value));
    return;
  }
  const uint16_t bits = tensor::F32ToF16(value);
  std::memcpy(bytes + index * 2, &bits, sizeof(bits));
}

}  // namespace halfmoon::kernels::generic
