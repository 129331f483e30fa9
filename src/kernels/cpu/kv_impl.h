// SPDX-License-Identifier: Apache-2.0
// KV pages over 16 lanes (vec_*.h): loads, stores and staging of rows and runs (paged_kv.h). The
// operations and their order are those of kv_element.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/generic.h"
#include "kernels/cpu/intrinsics.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

/// Values [d, d + 16) of a row of `dim` values; d is a multiple of 16.
template <typename V, KvType T>
HALFMOON_INLINE inline typename V::F LoadRow(const std::byte* row, int64_t dim, int64_t d) {
  if constexpr (T == KvType::kF32) return V::Load(reinterpret_cast<const float*>(row) + d);
  if constexpr (T == KvType::kF16) return V::LoadF16(row + d * 2);
  if constexpr (T == KvType::kQ8_0) {
    return V::Mul(V::ToFloat(V::LoadI8(row + d)), V::BroadcastF16(row + dim + d / kKvGroup * 2));
  }
  if constexpr (T == KvType::kBF16) return V::LoadBF16(row + d * 2);
}

/// The first or the second bfloat16 of each lane.
template <typename V>
HALFMOON_INLINE inline typename V::F HalfOfPairs(typename V::I pairs, bool second) {
  if (second) return V::FromBits(V::AndI(pairs, V::SetI(static_cast<int32_t>(0xFFFF0000u))));
  return V::FromBits(V::ShiftLeft(pairs, 16));
}

/// Values [d, d + 16) of a position of kHeads; `row` is its slot times row_bytes from the first,
/// and `second` says whether it is the second of a pair of positions.
template <typename V, KvType T>
HALFMOON_INLINE inline typename V::F LoadValue(const std::byte* row, size_t row_bytes, int64_t dim,
                                               int64_t d, bool second) {
  if constexpr (T == KvType::kBF16) {
    const std::byte* pair = second ? row - row_bytes : row;
    return HalfOfPairs<V>(V::LoadI(pair + d * 4), second);
  } else {
    return LoadRow<V, T>(row, dim, d);
  }
}

/// Calls step(d, values of 16 positions) for each of the `dim` values of a run, ascending.
template <typename V, KvType T, typename Step>
HALFMOON_INLINE inline void ForRun(const std::byte* run, int32_t dim, const Step& step) {
  if constexpr (T == KvType::kQ8_0) {
    const std::byte* scales = run;
    const std::byte* values = run + (dim + kKvGroup - 1) / kKvGroup * kKvLane * 2;
    for (int32_t d = 0; d < dim; scales += kKvLane * 2) {
      const typename V::F scale = V::LoadF16(scales);
      const int32_t end = d + kKvGroup < dim ? d + kKvGroup : dim;
      for (; d < end; ++d) {
        step(d, V::Mul(V::ToFloat(V::LoadI8(values + int64_t{d} * kKvLane)), scale));
      }
    }
  } else if constexpr (T == KvType::kBF16) {
    for (int32_t d = 0; d < dim; d += 2) {
      const typename V::I pairs = V::LoadI(run + int64_t{d} * kKvLane * 2);
      step(d, HalfOfPairs<V>(pairs, false));
      if (d + 1 < dim) step(d + 1, HalfOfPairs<V>(pairs, true));
    }
  } else {
    constexpr int64_t kBytes = T == KvType::kF32 ? 4 : 2;
    for (int32_t d = 0; d < dim; ++d) {
      const std::byte* at = run + int64_t{d} * kKvLane * kBytes;
      if constexpr (T == KvType::kF32) {
        step(d, V::Load(reinterpret_cast<const float*>(at)));
      } else {
        step(d, V::LoadF16(at));
      }
    }
  }
}

/// Calls op.template operator()<T>() for the type at hand.
template <typename Op>
HALFMOON_INLINE inline void WithKvType(KvType type, const Op& op) {
  switch (type) {
    case KvType::kF32:
      return op.template operator()<KvType::kF32>();
    case KvType::kF16:
      return op.template operator()<KvType::kF16>();
    case KvType::kQ8_0:
      return op.template operator()<KvType::kQ8_0>();
    case KvType::kBF16:
      return op.template operator()<KvType::kBF16>();
  }
}

/// Up to 32 values of a group as int8, `count` of them (16 or 32), and the bits of their scale.
template <typename V>
inline uint16_t QuantizeKvGroup(const float* x, int32_t count, int8_t q[kKvGroup]) {
  using F = typename V::F;
  const typename V::I magnitude = V::SetI(0x7FFFFFFF);
  const F first = V::Load(x);
  const F second = count > 16 ? V::Load(x + 16) : V::Zero();
  const uint32_t max_bits = V::MaxLanesU(
      V::MaxU(V::AndI(V::Bits(first), magnitude), V::AndI(V::Bits(second), magnitude)));
  constexpr uint16_t kNan = 0x7E00;
  uint16_t bits[16];
  float scale = 0.0f;
  if (max_bits < 0x7F800000u) {
    V::StoreF16(bits, V::Set(__builtin_bit_cast(float, max_bits) / 127.0f));
    float lanes[16];
    V::Store(lanes, V::LoadF16(bits));
    if (bits[0] != 0x7C00) scale = lanes[0];
    if (bits[0] == 0x7C00) bits[0] = kNan;
  } else {
    bits[0] = kNan;
  }
  if (!(scale > 0.0f)) {
    for (int i = 0; i < kKvGroup; ++i) q[i] = 0;
    return bits[0];
  }
  const auto quantized = [&](F v) {
    const F scaled = V::Mul(v, V::Set(1.0f / scale));
    return V::Round(V::Max(V::Min(scaled, V::Set(127.0f)), V::Set(-127.0f)));
  };
  V::StoreI8(q, quantized(first));
  V::StoreI8(q + 16, quantized(second));
  return bits[0];
}

/// tensor::F32ToBF16, once for each V.
template <typename V>
HALFMOON_INLINE inline uint16_t RoundToBf16(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  const auto nan = static_cast<uint16_t>((bits >> 16) | 0x40u);
  const auto rounded = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded;
}

/// `dim` values, a multiple of 16, as a row.
template <typename V>
void StoreRow(KvType type, const float* x, int32_t dim, std::byte* row) {
  if (type == KvType::kQ8_0) {
    auto* scales = row + dim;
    for (int32_t d = 0; d < dim; d += kKvGroup, scales += 2) {
      const int32_t count = dim - d < kKvGroup ? dim - d : kKvGroup;
      int8_t q[kKvGroup];
      const uint16_t scale = QuantizeKvGroup<V>(x + d, count, q);
      __builtin_memcpy(row + d, q, static_cast<size_t>(count));
      __builtin_memcpy(scales, &scale, sizeof(scale));
    }
    return;
  }
  for (int32_t d = 0; d < dim; d += 16) {
    if (type == KvType::kF32) {
      V::Store(reinterpret_cast<float*>(row) + d, V::Load(x + d));
    } else if (type == KvType::kF16) {
      V::StoreF16(row + int64_t{d} * 2, V::Load(x + d));
    } else {
      auto* out = reinterpret_cast<uint16_t*>(row) + d;
      for (int i = 0; i < 16; ++i) out[i] = RoundToBf16<V>(x[d + i]);
    }
  }
}

/// `dim` values, a multiple of 16, as those of `slot`; rows of kHeads from `rows` on.
template <typename V>
void StoreValue(KvType type, const float* x, int32_t dim, std::byte* rows, size_t row_bytes,
                size_t slot) {
  if (type != KvType::kBF16) return StoreRow<V>(type, x, dim, rows + slot * row_bytes);
  auto* out = reinterpret_cast<uint16_t*>(rows + slot / 2 * 2 * row_bytes) + slot % 2;
  for (int32_t d = 0; d < dim; ++d) out[int64_t{d} * 2] = RoundToBf16<V>(x[d]);
}

/// `dim` values, a multiple of 16, as one lane of a run.
template <typename V>
void StoreRun(KvType type, const float* x, int32_t dim, std::byte* run, int32_t lane) {
  if (type == KvType::kQ8_0) {
    auto* scales = reinterpret_cast<uint16_t*>(run) + lane;
    auto* values = reinterpret_cast<int8_t*>(run) + (dim + kKvGroup - 1) / kKvGroup * kKvLane * 2;
    for (int32_t d = 0; d < dim; d += kKvGroup, scales += kKvLane) {
      const int32_t count = dim - d < kKvGroup ? dim - d : kKvGroup;
      int8_t q[kKvGroup];
      *scales = QuantizeKvGroup<V>(x + d, count, q);
      for (int32_t i = 0; i < count; ++i) values[int64_t{d + i} * kKvLane + lane] = q[i];
    }
    return;
  }
  if (type == KvType::kF32) {
    auto* out = reinterpret_cast<float*>(run) + lane;
    for (int32_t d = 0; d < dim; ++d) out[int64_t{d} * kKvLane] = x[d];
    return;
  }
  if (type == KvType::kBF16) {
    auto* out = reinterpret_cast<uint16_t*>(run) + 2 * lane;
    for (int32_t d = 0; d < dim; ++d) {
      out[int64_t{d / 2} * kKvLane * 2 + d % 2] = RoundToBf16<V>(x[d]);
    }
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(run) + lane;
  for (int32_t d = 0; d < dim; d += 16) {
    uint16_t halves[16];
    V::StoreF16(halves, V::Load(x + d));
    for (int i = 0; i < 16; ++i) out[int64_t{d + i} * kKvLane] = halves[i];
  }
}

template <typename V>
void StoreKv(const StoreKvArgs& args) {
  if (args.head_dim % 16 != 0) return generic::StoreKv(args);
  const auto slots = static_cast<size_t>(args.block_size);
  const auto slot = static_cast<size_t>(args.slot);
  for (int32_t head = 0; head < args.num_kv_heads; ++head) {
    const size_t first = static_cast<size_t>(head) * slots;
    const int64_t from = int64_t{head} * args.head_dim;
    StoreRun<V>(args.k_type, args.new_k + from, args.head_dim,
                args.k + (first + slot / kKvLane * kKvLane) * args.k_row_bytes,
                args.slot % kKvLane);
    StoreValue<V>(args.v_type, args.new_v + from, args.head_dim, args.v + first * args.v_row_bytes,
                  args.v_row_bytes, slot);
  }
}

template <typename V>
void StoreLatent(const StoreLatentArgs& args) {
  if (args.head_dim % 16 != 0 || args.index_dim % 16 != 0) return generic::StoreLatent(args);
  StoreRow<V>(args.type, args.kv, args.head_dim, args.row);
  if (args.index_dim == 0) return;
  StoreRun<V>(args.type, args.index_key, args.index_dim, args.index_run, args.lane);
}

template <typename V>
void StageHeads(const StageHeadsArgs& args) {
  const int64_t dim = args.head_dim;
  for (int32_t i = 0; i < args.count; i += kKvLane) {
    const int32_t p = args.first + i;
    const auto slot = static_cast<size_t>(p % args.block_size);
    const std::byte* page =
        args.pages + static_cast<size_t>(args.page_table[p / args.block_size]) * args.page_bytes;
    float* keys = args.keys + i * dim;
    WithKvType(args.k_type, [&]<KvType T>() HALFMOON_INLINE {
      ForRun<V, T>(page + args.k_offset + slot * args.k_row_bytes, args.head_dim,
                   [&](int32_t d, typename V::F k)
                       HALFMOON_INLINE { V::Store(keys + int64_t{d} * kKvLane, k); });
    });
    const int32_t rows = args.count - i < kKvLane ? args.count - i : kKvLane;
    const std::byte* row = page + args.v_offset + slot * args.v_row_bytes;
    float* values = args.values + i * dim;
    WithKvType(args.v_type, [&]<KvType T>() HALFMOON_INLINE {
      for (int32_t r = 0; r < rows; ++r, row += args.v_row_bytes, values += dim) {
        for (int64_t d = 0; d < dim; d += 16) {
          V::Store(values + d, LoadValue<V, T>(row, args.v_row_bytes, dim, d, r % 2 == 1));
        }
      }
    });
  }
}

}  // namespace halfmoon::kernels::impl
