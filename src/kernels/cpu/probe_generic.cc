// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>

#include "kernels/cpu/generic.h"

namespace halfmoon::kernels::generic {

int64_t ProbeInt8(int64_t iterations, int32_t* result) {
  int32_t sums[16] = {};
  int8_t factor[16];
  std::memset(factor, static_cast<int>(iterations & 3), sizeof(factor));
  for (int64_t i = 0; i < iterations; ++i) {
    for (int lane = 0; lane < 16; ++lane) sums[lane] += factor[lane] * static_cast<int8_t>(i);
  }
  *result = sums[0] ^ sums[15];
  return iterations * 16 * 2;
}

int64_t ProbeF32(int64_t iterations, int32_t* result) {
  float sums[16] = {};
  const auto factor = static_cast<float>(iterations & 3) * 0.25f;
  for (int64_t i = 0; i < iterations; ++i) {
    for (float& sum : sums) sum = std::fma(sum, factor, 1.0f);
  }
  *result = static_cast<int32_t>(sums[0] + sums[15]);
  return iterations * 16 * 2;
}

int32_t ProbeRead(const std::byte* memory, size_t size_bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= size_bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, memory + i, sizeof(word));
    sum ^= word;
  }
  return static_cast<int32_t>(sum);
}

}  // namespace halfmoon::kernels::generic
