// SPDX-License-Identifier: Apache-2.0
// The f32 matmul over 16 lanes (vec_*.h), one lane per output row of a tile; the operations and
// their order are those of matmul_generic.cc. Weights are decoded once per panel of inputs into L1
// and used for every row.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/cpu/tile_format.h"
#include "kernels/registry.h"

namespace halfmoon::kernels::impl {

inline constexpr int kF32Panel = 128;  ///< inputs decoded together: 8 KiB of weights
inline constexpr int kF32Rows = 64;    ///< rows that share them: 8 KiB of accumulators

template <typename V, WeightFormat F>
void DecodeGroup(const MatMulArgs& args, const std::byte* tile, int64_t g, float* w) {
  using Format = TileFormat<F>;
  using Float = typename V::F;
  using Int = typename V::I;
  const std::byte* quants = tile + g * Format::kGroupBytes;
  const std::byte* scales =
      tile + args.quant_bytes + g / Format::kScaleGroups * Format::kScaleBytes;
  const int64_t sub = g % Format::kScaleGroups;
  Float d[2];
  d[0] = d[1] = Format::kHasBf16Scale ? V::LoadBF16(scales) : V::LoadF16(scales);
  Float m[2];
  m[0] = m[1] = V::Zero();
  if constexpr (Format::kIsSuper) {
    const Float whole = d[0];
    Float minimum = V::Zero();
    if constexpr (Format::kHasMin) minimum = V::Negate(V::LoadF16(scales + Format::kMinOffset));
    Unroll<2>([&](int half) HALFMOON_INLINE {
      const int64_t row = 16 * (Format::kHalves ? 2 * sub + half : sub);
      const std::byte* sc = scales + Format::kScOffset + row;
      d[half] = V::Mul(whole, V::ToFloat(Format::kHasMin ? V::LoadU8(sc) : V::LoadI8(sc)));
      if constexpr (Format::kHasMin) {
        m[half] = V::Mul(minimum, V::ToFloat(V::LoadU8(scales + Format::kMnOffset + row)));
      }
    });
  } else if constexpr (Format::kHasMin) {
    m[0] = m[1] = V::LoadF16(scales + Format::kMinOffset);
  }
  const Float zero = V::ToFloat(V::SetI(args.zero));
  const auto store = [&](int k, Float q) {
    Float value = V::Mul(d[k / 16], V::Sub(q, zero));
    if constexpr (Format::kHasMin) value = V::Add(value, m[k / 16]);
    V::Store(w + k * 16, value);
  };
  if constexpr (Format::kHasNibbles) {
    float table[16];
    for (int i = 0; Format::kIsLookup && i < 16; ++i) table[i] = Format::Table()[i];
    Unroll<8>([&](int word) HALFMOON_INLINE {
      const Int bytes = V::LoadI(quants + 64 * (word / 2));
      Int high = bytes;
      if constexpr (Format::kHighBits > 0) high = V::LoadI(quants + Format::HighChunk(word));
      Unroll<4>([&](int i) HALFMOON_INLINE {
        Int q = V::AndI(V::ShiftRight(bytes, 8 * i + word % 2 * 4), V::SetI(15));
        if constexpr (Format::kHighBits > 0) {
          const Int bits = V::ShiftRight(high, 8 * i + Format::HighBit(word));
          q = V::AddI(q, V::AndI(V::ShiftLeft(bits, 4), V::SetI(Format::kHighMask)));
        }
        store(4 * word + i, Format::kIsLookup ? V::Lookup(table, q) : V::ToFloat(q));
      });
    });
  } else {
    const Int byte = V::SetI(255);
    Unroll<8>([&](int chunk) HALFMOON_INLINE {
      const Int bytes = V::LoadI(quants + 64 * chunk);
      Unroll<4>([&](int i) HALFMOON_INLINE {
        store(4 * chunk + i, V::ToFloat(V::AndI(V::ShiftRight(bytes, 8 * i), byte)));
      });
    });
  }
}

/// Inputs [k0, k0 + count) of a tile as float32 [count][16]: in place for kF32, else decoded into
/// `buffer`, which holds whole panels. k0 is a multiple of kF32Panel.
template <typename V, WeightFormat F>
const float* DecodePanel(const MatMulArgs& args, const std::byte* tile, int64_t k0, int64_t count,
                         float* buffer) {
  if constexpr (F == WeightFormat::kF32) {
    return reinterpret_cast<const float*>(tile) + k0 * 16;
  } else if constexpr (F == WeightFormat::kF16 || F == WeightFormat::kBF16) {
    using Int = typename V::I;
    for (int64_t k = 0; k < count; k += 2) {
      const Int pair = V::LoadI(tile + (k0 + k) * 32);
      if constexpr (F == WeightFormat::kF16) {
        V::Store(buffer + k * 16, V::LowF16(pair));
        V::Store(buffer + k * 16 + 16, V::LowF16(V::ShiftRight(pair, 16)));
      } else {
        const Int high = V::SetI(static_cast<int32_t>(0xFFFF0000u));
        V::Store(buffer + k * 16, V::FromBits(V::ShiftLeft(pair, 16)));
        V::Store(buffer + k * 16 + 16, V::FromBits(V::AndI(pair, high)));
      }
    }
    return buffer;
  } else if constexpr (F == WeightFormat::kF8) {
    // Exponent and mantissa of E4M3 are those of a binary16 number 256 times too small; the scales
    // of the tile make up for it.
    using Int = typename V::I;
    static_assert(kF32Panel == kF8Group);
    const typename V::F d =
        V::Load(reinterpret_cast<const float*>(tile + args.quant_bytes) + k0 / kF8Group * 16);
    const Int sign = V::SetI(0x80);
    const Int rest = V::SetI(0x7F);
    for (int64_t k = 0; k < count; k += 4) {
      const Int four = V::LoadI(tile + (k0 + k) * 16);
      Unroll<4>([&](int i) HALFMOON_INLINE {
        const Int byte = V::ShiftRight(four, 8 * i);
        const Int half =
            V::AddI(V::ShiftLeft(V::AndI(byte, sign), 8), V::ShiftLeft(V::AndI(byte, rest), 7));
        V::Store(buffer + (k + i) * 16, V::Mul(V::LowF16(half), d));
      });
    }
    return buffer;
  } else {
    for (int64_t k = 0; k < count; k += kGroup) {
      DecodeGroup<V, F>(args, tile, (k0 + k) / kGroup, buffer + k * 16);
    }
    return buffer;
  }
}

/// acc[r][k % 2] = fma(x[r][k], w[k], acc[r][k % 2]) for ascending k < count, for R rows.
template <typename V, int R>
void MultiplyPanel(const float* const x[], const float* w, int64_t count, float* acc) {
  using F = typename V::F;
  F even[R];
  F odd[R];
  const float* row[R];
  Unroll<R>([&](int r) HALFMOON_INLINE {
    even[r] = V::Load(acc + r * 32);
    odd[r] = V::Load(acc + r * 32 + 16);
    row[r] = x[r];
  });
  int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    const F w0 = V::Load(w + k * 16);
    Unroll<R>([&](int r) HALFMOON_INLINE { even[r] = V::Fma(V::Set(row[r][k]), w0, even[r]); });
    const F w1 = V::Load(w + k * 16 + 16);
    Unroll<R>([&](int r) HALFMOON_INLINE { odd[r] = V::Fma(V::Set(row[r][k + 1]), w1, odd[r]); });
  }
  if (k < count) {
    const F w0 = V::Load(w + k * 16);
    Unroll<R>([&](int r) HALFMOON_INLINE { even[r] = V::Fma(V::Set(row[r][k]), w0, even[r]); });
  }
  Unroll<R>([&](int r) HALFMOON_INLINE {
    V::Store(acc + r * 32, even[r]);
    V::Store(acc + r * 32 + 16, odd[r]);
  });
}

template <typename V, int R>
void MultiplyUpTo(int64_t rows, const float* const x[], const float* w, int64_t count, float* acc) {
  if constexpr (R > 1) {
    if (rows < R) return MultiplyUpTo<V, R - 1>(rows, x, w, count, acc);
  }
  MultiplyPanel<V, R>(x, w, count, acc);
}

template <typename V, WeightFormat F>
void MatMulF32(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  alignas(64) float buffer[kF32Panel * 16];
  alignas(64) float acc[kF32Rows * 32];
  const float* x[kF32Rows];
  for (int64_t first = 0; first < args.num_rows; first += kF32Rows) {
    const int64_t left = args.num_rows - first;
    const int64_t rows = left < kF32Rows ? left : kF32Rows;
    for (int64_t t = tile_begin; t < tile_end; ++t) {
      const std::byte* tile = args.tiles + static_cast<size_t>(t) * args.tile_bytes;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t source =
            args.row_index != nullptr ? args.row_index[first + r] : args.row_begin + first + r;
        x[r] = args.x + source * args.x_stride;
        V::Store(acc + r * 32, V::Zero());
        V::Store(acc + r * 32 + 16, V::Zero());
      }
      for (int64_t k = 0; k < args.k; k += kF32Panel) {
        const int64_t count = args.k - k < kF32Panel ? args.k - k : kF32Panel;
        const float* w = DecodePanel<V, F>(args, tile, k, count, buffer);
        const int64_t blocks = (rows + V::kMatMulRows - 1) / V::kMatMulRows;
        for (int64_t b = 0; b < blocks; ++b) {
          const int64_t r = rows * b / blocks;
          MultiplyUpTo<V, V::kMatMulRows>(rows * (b + 1) / blocks - r, x + r, w, count,
                                          acc + r * 32);
        }
        for (int64_t r = 0; r < rows; ++r) x[r] += count;
      }
      const int64_t outputs = args.n - t * 16;
      for (int64_t r = 0; r < rows; ++r) {
        const typename V::F sum = V::Add(V::Load(acc + r * 32), V::Load(acc + r * 32 + 16));
        float* y = args.y + (first + r) * args.y_stride + t * 16;
        if (outputs >= 16) {
          V::Store(y, sum);
        } else {
          V::StorePart(y, sum, outputs);
        }
      }
    }
  }
}

}  // namespace halfmoon::kernels::impl
