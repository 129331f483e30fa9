// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/generic.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/tile_format.h"
#include "tensor/float16.h"

namespace halfmoon::kernels::generic {
namespace {

constexpr int kRows = static_cast<int>(kTileRows);
constexpr int kInputs = static_cast<int>(kGroup);

uint16_t LoadU16(const std::byte* bytes, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, bytes + index * 2, sizeof(bits));
  return bits;
}

float LoadF16(const std::byte* bytes, int64_t index) {
  return tensor::F16ToF32(LoadU16(bytes, index));
}

int64_t SourceRow(const MatMulArgs& args, int64_t i) {
  return args.row_index != nullptr ? args.row_index[i] : args.row_begin + i;
}

// One group of 32 inputs of a quantised tile as integers, and its scales for each half of 16
// inputs.
struct Group {
  int32_t q[kInputs][kRows];
  float d[2][kRows];
  float m[2][kRows];  // what is added to d q; 0 where the format has no minimum
};

template <WeightFormat F>
void LoadGroup(const MatMulArgs& args, const std::byte* tile, int64_t g, Group* group) {
  using Format = TileFormat<F>;
  const auto* quants = reinterpret_cast<const uint8_t*>(tile) + g * Format::kGroupBytes;
  for (int k = 0; k < kInputs; ++k) {
    for (int r = 0; r < kRows; ++r) {
      if constexpr (Format::kHasNibbles) {
        const uint8_t byte = quants[k / 8 * 64 + 4 * r + k % 4];
        int32_t q = k % 8 < 4 ? byte & 15 : byte >> 4;
        if constexpr (Format::kHighBits > 0) {
          const int high = quants[Format::HighChunk(k / 4) + 4 * r + k % 4];
          q |= high >> Format::HighBit(k / 4) << 4 & Format::kHighMask;
        }
        if constexpr (Format::kIsLookup) q = Format::Table()[q];
        group->q[k][r] = q;
      } else {
        group->q[k][r] = quants[k / 4 * 64 + 4 * r + k % 4];
      }
    }
  }
  const std::byte* scales =
      tile + args.quant_bytes + g / Format::kScaleGroups * Format::kScaleBytes;
  const int64_t sub = g % Format::kScaleGroups;
  for (int r = 0; r < kRows; ++r) {
    const float d =
        Format::kHasBf16Scale ? tensor::BF16ToF32(LoadU16(scales, r)) : LoadF16(scales, r);
    group->d[0][r] = group->d[1][r] = d;
    group->m[0][r] = group->m[1][r] = 0.0f;
    if constexpr (Format::kHasMin && !Format::kIsSuper) {
      group->m[0][r] = group->m[1][r] = LoadF16(scales + Format::kMinOffset, r);
    }
    if constexpr (Format::kIsSuper) {
      for (int half = 0; half < 2; ++half) {
        const int64_t row = (Format::kHalves ? 2 * sub + half : sub) * 16 + r;
        const auto sc = static_cast<uint8_t>(scales[Format::kScOffset + row]);
        group->d[half][r] =
            d * static_cast<float>(Format::kHasMin ? int{sc} : int{static_cast<int8_t>(sc)});
        if constexpr (Format::kHasMin) {
          const auto mn = static_cast<uint8_t>(scales[Format::kMnOffset + row]);
          group->m[half][r] = -(LoadF16(scales + Format::kMinOffset, r) * static_cast<float>(mn));
        }
      }
    }
  }
}

// Inputs [32 g, 32 g + count) of all 16 rows as float32.
template <WeightFormat F>
void DecodeGroup(const MatMulArgs& args, const std::byte* tile, int64_t g, int count,
                 float w[kInputs][kRows]) {
  if constexpr (F == WeightFormat::kF32) {
    std::memcpy(w, tile + g * kInputs * kRows * 4, static_cast<size_t>(count) * kRows * 4);
  } else if constexpr (F == WeightFormat::kF16 || F == WeightFormat::kBF16) {
    for (int k = 0; k < count; ++k) {
      for (int r = 0; r < kRows; ++r) {
        const uint16_t bits = LoadU16(tile, (g * kInputs + k) / 2 * 32 + 2 * r + k % 2);
        w[k][r] = F == WeightFormat::kF16 ? tensor::F16ToF32(bits) : tensor::BF16ToF32(bits);
      }
    }
  } else if constexpr (F == WeightFormat::kF8) {
    const std::byte* scales = tile + args.quant_bytes + g * kInputs / kF8Group * 64;
    for (int k = 0; k < count; ++k) {
      for (int r = 0; r < kRows; ++r) {
        float d;
        std::memcpy(&d, scales + 4 * r, sizeof(d));
        const auto bits = static_cast<uint32_t>(tile[(g * kInputs + k) / 4 * 64 + 4 * r + k % 4]);
        w[k][r] =
            tensor::F16ToF32(static_cast<uint16_t>((bits & 0x80u) << 8 | (bits & 0x7Fu) << 7)) * d;
      }
    }
  } else {
    Group group;
    LoadGroup<F>(args, tile, g, &group);
    for (int k = 0; k < count; ++k) {
      for (int r = 0; r < kRows; ++r) {
        const auto q = static_cast<float>(group.q[k][r] - args.zero);
        w[k][r] = group.d[k / 16][r] * q;
        if constexpr (TileFormat<F>::kHasMin) w[k][r] += group.m[k / 16][r];
      }
    }
  }
}

void StoreRow(const MatMulArgs& args, int64_t row, int64_t tile, const float values[kRows]) {
  const int64_t count = std::min<int64_t>(kRows, args.n - tile * kRows);
  std::copy_n(values, count, args.y + row * args.y_stride + tile * kRows);
}

// Rows that share one decoding of a group.
constexpr int kRowBlock = 16;

template <WeightFormat F>
void MatMulF32(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  for (int64_t t = tile_begin; t < tile_end; ++t) {
    const std::byte* tile = args.tiles + static_cast<size_t>(t) * args.tile_bytes;
    for (int64_t row = 0; row < args.num_rows; row += kRowBlock) {
      const auto rows = static_cast<int>(std::min<int64_t>(kRowBlock, args.num_rows - row));
      float acc[kRowBlock][2][kRows] = {};
      float w[kInputs][kRows];
      for (int64_t k0 = 0; k0 < args.k; k0 += kInputs) {
        const auto count = static_cast<int>(std::min<int64_t>(kInputs, args.k - k0));
        DecodeGroup<F>(args, tile, k0 / kInputs, count, w);
        for (int i = 0; i < rows; ++i) {
          const float* x = args.x + SourceRow(args, row + i) * args.x_stride + k0;
          for (int k = 0; k < count; ++k) {
            for (int r = 0; r < kRows; ++r)
              acc[i][k % 2][r] = std::fma(x[k], w[k][r], acc[i][k % 2][r]);
          }
        }
      }
      for (int i = 0; i < rows; ++i) {
        float y[kRows];
        for (int r = 0; r < kRows; ++r) y[r] = acc[i][0][r] + acc[i][1][r];
        StoreRow(args, row + i, t, y);
      }
    }
  }
}

template <WeightFormat F>
void MatMulInt8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end) {
  using Format = TileFormat<F>;
  for (int64_t t = tile_begin; t < tile_end; ++t) {
    const std::byte* tile = args.tiles + static_cast<size_t>(t) * args.tile_bytes;
    for (int64_t row = 0; row < args.num_rows; row += kRowBlock) {
      const auto rows = static_cast<int>(std::min<int64_t>(kRowBlock, args.num_rows - row));
      float acc[kRowBlock][kRows] = {};
      for (int64_t g = 0; g < args.groups; ++g) {
        Group group;
        LoadGroup<F>(args, tile, g, &group);
        for (int i = 0; i < rows; ++i) {
          const int64_t source = SourceRow(args, row + i);
          const int8_t* q = args.q + (source * args.groups + g) * kInputs;
          const float a = args.scale[source * args.groups + g];
          const int32_t* sums = args.sum16 + (source * args.groups + g) * 2;
          for (int r = 0; r < kRows; ++r) {
            int32_t dot[2] = {-args.zero * sums[0], -args.zero * sums[1]};
            for (int k = 0; k < kInputs; ++k) dot[k / 16] += group.q[k][r] * q[k];
            float& sum = acc[i][r];
            if constexpr (Format::kHalves) {
              sum = std::fma(static_cast<float>(dot[0]), group.d[0][r] * a, sum);
              sum = std::fma(static_cast<float>(dot[1]), group.d[1][r] * a, sum);
            } else {
              sum = std::fma(static_cast<float>(dot[0] + dot[1]), group.d[0][r] * a, sum);
            }
            if constexpr (Format::kHasMin && Format::kHalves) {
              sum = std::fma(group.m[0][r], a * static_cast<float>(sums[0]), sum);
              sum = std::fma(group.m[1][r], a * static_cast<float>(sums[1]), sum);
            } else if constexpr (Format::kHasMin) {
              sum = std::fma(group.m[0][r], a * static_cast<float>(sums[0] + sums[1]), sum);
            }
          }
        }
      }
      for (int i = 0; i < rows; ++i) StoreRow(args, row + i, t, acc[i]);
    }
  }
}

}  // namespace

constinit const MatMulTable kMatMulF32 =
    MakeMatMulTable([]<WeightFormat F>() -> MatMulTilesFn { return MatMulF32<F>; });
constinit const MatMulTable kMatMulInt8 =
    MakeInt8Table([]<WeightFormat F>() -> MatMulTilesFn { return MatMulInt8<F>; });

}  // namespace halfmoon::kernels::generic
