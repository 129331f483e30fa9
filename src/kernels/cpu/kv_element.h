// SPDX-License-Identifier: Apache-2.0
// Access of the generic kernels to KV pages, value by value (paged_kv.h has the layouts). Not for
// files compiled for a wider ISA: the linker keeps one copy of inline functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/paged_kv.h"
#include "tensor/float16.h"

namespace halfmoon::kernels::generic {

/// Where in a row or a run value d of a position lies: counted in values, and for kQ8_0 the scale
/// of its group, counted in scales.
struct KvPlace {
  int64_t value = 0;
  int64_t scale = 0;
  int64_t first_value_byte = 0;
  int64_t first_scale_byte = 0;
};

/// In rows of two positions (kBF16), `second` of them or not.
inline KvPlace PlaceInPair(int32_t d, bool second) {
  return {.value = int64_t{d} * 2 + (second ? 1 : 0)};
}

inline KvPlace PlaceInRow(KvType type, int32_t dim, int32_t d) {
  return {.value = d,
          .scale = d / kKvGroup,
          .first_value_byte = 0,
          .first_scale_byte = type == KvType::kQ8_0 ? dim : 0};
}

inline KvPlace PlaceInRun(KvType type, int32_t dim, int32_t d, int32_t lane) {
  if (type == KvType::kBF16) return {.value = (int64_t{d / 2} * kKvLane + lane) * 2 + d % 2};
  const int64_t scales = (int64_t{dim} + kKvGroup - 1) / kKvGroup * kKvLane;
  return {.value = int64_t{d} * kKvLane + lane,
          .scale = int64_t{d / kKvGroup} * kKvLane + lane,
          .first_value_byte = type == KvType::kQ8_0 ? 2 * scales : 0,
          .first_scale_byte = 0};
}

inline float LoadF16(const std::byte* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return tensor::F16ToF32(bits);
}

inline float LoadAt(KvType type, const std::byte* bytes, const KvPlace& at) {
  switch (type) {
    case KvType::kF32: {
      float value;
      std::memcpy(&value, bytes + at.value * 4, sizeof(value));
      return value;
    }
    case KvType::kF16:
      return LoadF16(bytes + at.value * 2);
    case KvType::kQ8_0:
      return static_cast<float>(static_cast<int8_t>(bytes[at.first_value_byte + at.value])) *
             LoadF16(bytes + at.first_scale_byte + at.scale * 2);
    case KvType::kBF16: {
      uint16_t bits;
      std::memcpy(&bits, bytes + at.value * 2, sizeof(bits));
      return tensor::BF16ToF32(bits);
    }
  }
  return 0.0f;
}

/// Value d of a row of `dim`.
inline float LoadRow(KvType type, const std::byte* row, int32_t dim, int32_t d) {
  return LoadAt(type, row, PlaceInRow(type, dim, d));
}

/// Where the row of `slot` begins among rows of values of kHeads, in kBF16 that of the pair.
inline size_t ValueRowOffset(KvType type, size_t slot, size_t row_bytes) {
  return (type == KvType::kBF16 ? slot / 2 * 2 : slot) * row_bytes;
}

/// Value d of the value row of `slot`, rows of kHeads from `rows` on.
inline float LoadValue(KvType type, const std::byte* rows, size_t row_bytes, size_t slot,
                       int32_t dim, int32_t d) {
  const std::byte* row = rows + ValueRowOffset(type, slot, row_bytes);
  if (type == KvType::kBF16) return LoadAt(type, row, PlaceInPair(d, slot % 2 == 1));
  return LoadRow(type, row, dim, d);
}

/// Value d of lane `lane` of a run of 16 positions.
inline float LoadRun(KvType type, const std::byte* run, int32_t dim, int32_t d, int32_t lane) {
  return LoadAt(type, run, PlaceInRun(type, dim, d, lane));
}

/// Bits of the scale of a group of `count` values: max |x| / 127 as float16. NaN where that is no
/// finite number, so that a fault in the values stays visible.
inline uint16_t GroupScale(const float* x, int32_t count) {
  // Magnitudes compare as integers, and so also catch NaN (above infinity).
  uint32_t max_bits = 0;
  for (int32_t i = 0; i < count; ++i) {
    max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
  }
  constexpr uint16_t kNan = 0x7E00;
  if (max_bits >= 0x7F800000u) return kNan;
  const uint16_t bits = tensor::F32ToF16(std::bit_cast<float>(max_bits) / 127.0f);
  return bits == 0x7C00 ? kNan : bits;
}

/// x / scale, rounded to nearest even and kept within +-127; 0 where the scale is 0 or NaN.
inline int8_t GroupValue(float x, float scale) {
  if (!(scale > 0.0f)) return 0;
  const float q = std::nearbyint(x * (1.0f / scale));
  return static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f));
}

/// Stores `dim` values of one position; `place(d)` says where.
template <typename Place>
void StoreValues(KvType type, const float* x, int32_t dim, std::byte* bytes, const Place& place) {
  for (int32_t begin = 0; begin < dim; begin += kKvGroup) {
    const int32_t end = std::min(dim, begin + kKvGroup);
    uint16_t scale = 0;
    if (type == KvType::kQ8_0) {
      const KvPlace at = place(begin);
      scale = GroupScale(x + begin, end - begin);
      std::memcpy(bytes + at.first_scale_byte + at.scale * 2, &scale, sizeof(scale));
    }
    for (int32_t d = begin; d < end; ++d) {
      const KvPlace at = place(d);
      switch (type) {
        case KvType::kF32:
          std::memcpy(bytes + at.value * 4, x + d, sizeof(float));
          break;
        case KvType::kF16: {
          const uint16_t bits = tensor::F32ToF16(x[d]);
          std::memcpy(bytes + at.value * 2, &bits, sizeof(bits));
          break;
        }
        case KvType::kQ8_0:
          bytes[at.first_value_byte + at.value] =
              static_cast<std::byte>(GroupValue(x[d], tensor::F16ToF32(scale)));
          break;
        case KvType::kBF16: {
          const uint16_t bits = tensor::F32ToBF16(x[d]);
          std::memcpy(bytes + at.value * 2, &bits, sizeof(bits));
          break;
        }
      }
    }
  }
}

inline void StoreRow(KvType type, const float* x, int32_t dim, std::byte* row) {
  StoreValues(type, x, dim, row, [=](int32_t d) { return PlaceInRow(type, dim, d); });
}

/// The value row of `slot`, rows of kHeads from `rows` on.
inline void StoreValue(KvType type, const float* x, int32_t dim, std::byte* rows, size_t row_bytes,
                       size_t slot) {
  std::byte* row = rows + ValueRowOffset(type, slot, row_bytes);
  if (type != KvType::kBF16) return StoreRow(type, x, dim, row);
  StoreValues(type, x, dim, row, [=](int32_t d) { return PlaceInPair(d, slot % 2 == 1); });
}

inline void StoreRun(KvType type, const float* x, int32_t dim, std::byte* run, int32_t lane) {
  StoreValues(type, x, dim, run, [=](int32_t d) { return PlaceInRun(type, dim, d, lane); });
}

}  // namespace halfmoon::kernels::generic
