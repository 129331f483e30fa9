// SPDX-License-Identifier: Apache-2.0
#include "kernels/packed_matrix.h"

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "kernels/cpu/tile_format.h"
#include "kernels/pack_tile.h"
#include "quant/unpack.h"

namespace halfmoon::kernels {
namespace {

using tensor::DType;

struct TileSizes {
  size_t quant_bytes;
  size_t tile_bytes;
  int64_t block_inputs = 1;  ///< that share a block of scales
};

constexpr size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <WeightFormat F>
TileSizes QuantisedSizes(size_t groups) {
  using Format = TileFormat<F>;
  const size_t quants = groups * Format::kGroupBytes;
  const size_t scales = groups / Format::kScaleGroups * Format::kScaleBytes;
  return {quants, RoundUp(quants + scales, 64), kGroup * Format::kScaleGroups};
}

template <size_t... F>
TileSizes SizesOfQuantised(WeightFormat format, size_t groups, std::index_sequence<F...>) {
  constexpr auto kFirst = static_cast<size_t>(kFirstIntegerFormat);
  constexpr TileSizes (*kSizes[])(size_t) = {
      QuantisedSizes<static_cast<WeightFormat>(kFirst + F)>...};
  return kSizes[static_cast<size_t>(format) - kFirst](groups);
}

TileSizes SizesOf(WeightFormat format, int64_t cols) {
  const auto k = static_cast<size_t>(cols);
  switch (format) {
    case WeightFormat::kF32:
      return {k * 64, k * 64};
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return {(k + 1) / 2 * 64, (k + 1) / 2 * 64};
    case WeightFormat::kF8: {
      const size_t quants = (k + 3) / 4 * 64;
      return {quants, quants + (k + kF8Group - 1) / kF8Group * 64};
    }
    default:
      constexpr auto kFirst = static_cast<size_t>(kFirstIntegerFormat);
      return SizesOfQuantised(format, k / kGroup,
                              std::make_index_sequence<kNumWeightFormats - kFirst>{});
  }
}

}  // namespace

std::string_view WeightFormatName(WeightFormat format) {
  constexpr std::array<std::string_view, kNumWeightFormats> kNames = {
      "f32", "f16", "bf16", "f8",  "u4d", "u4dm", "u5d", "u5dm", "u8d", "u4k",
      "u5k", "u4h", "u4s",  "u6s", "u4b", "u8b",  "l4d", "l4b",  "l4s"};
  return kNames[static_cast<size_t>(format)];
}

bool IsIntegerFormat(WeightFormat format) { return format >= kFirstIntegerFormat; }

int64_t InputsPerBlock(WeightFormat format) { return SizesOf(format, 0).block_inputs; }

std::string_view PackedLayoutName(Isa) { return "tile16.2"; }

size_t PackedSizeBytes(WeightFormat format, int64_t rows, int64_t cols) {
  return static_cast<size_t>((rows + kTileRows - 1) / kTileRows) * SizesOf(format, cols).tile_bytes;
}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, int zero)
    : format_(format), zero_(zero), rows_(rows), cols_(cols) {
  const TileSizes sizes = SizesOf(format, cols);
  tile_bytes_ = sizes.tile_bytes;
  quant_bytes_ = sizes.quant_bytes;
  data_ = tensor::AlignedBuffer(size_bytes());
  tiles_ = data_.data();
}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, int zero,
                           std::span<std::byte> memory)
    : format_(format), zero_(zero), rows_(rows), cols_(cols), tiles_(memory.data()) {
  const TileSizes sizes = SizesOf(format, cols);
  tile_bytes_ = sizes.tile_bytes;
  quant_bytes_ = sizes.quant_bytes;
  HM_CHECK(memory.size() >= size_bytes());
}

Result<WeightFormat> FormatFor(DType dtype, DType scale_dtype) {
  switch (dtype) {
    case DType::kF32:
      return WeightFormat::kF32;
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kBF16:
      return WeightFormat::kBF16;
    case DType::kF8E4M3:
      return WeightFormat::kF8;
    case DType::kI4x8:
      return scale_dtype == DType::kF16 ? WeightFormat::kU4D : WeightFormat::kU4B;
    case DType::kI8x4:
      return scale_dtype == DType::kF16 ? WeightFormat::kU8D : WeightFormat::kU8B;
    case DType::kMXFP4:
      return WeightFormat::kL4B;
    case DType::kQ4_0:
    case DType::kTQ1_0:
    case DType::kTQ2_0:
      return WeightFormat::kU4D;
    case DType::kQ4_1:
      return WeightFormat::kU4DM;
    case DType::kQ5_0:
      return WeightFormat::kU5D;
    case DType::kQ5_1:
      return WeightFormat::kU5DM;
    case DType::kQ8_0:
      return WeightFormat::kU8D;
    case DType::kQ4_K:
      return WeightFormat::kU4K;
    case DType::kQ5_K:
      return WeightFormat::kU5K;
    case DType::kQ2_K:
      return WeightFormat::kU4H;
    case DType::kQ3_K:
      return WeightFormat::kU4S;
    case DType::kQ6_K:
      return WeightFormat::kU6S;
    case DType::kIQ4_NL:
      return WeightFormat::kL4D;
    case DType::kIQ4_XS:
      return WeightFormat::kL4S;
    default:
      return Error(ErrorCode::kUnsupported,
                   std::string(tensor::Info(dtype).name) + " is not a type of linear weights");
  }
}

namespace {

bool IsScaledInteger(DType dtype) { return dtype == DType::kI4x8 || dtype == DType::kI8x4; }

/// Whether the scales beside the values are such as the format's tiles hold.
Status CheckScales(const RowSource& source) {
  const bool is_f8 = source.dtype == DType::kF8E4M3;
  if (!is_f8 && !IsScaledInteger(source.dtype)) return {};
  const std::string name(tensor::Info(source.dtype).name);
  const DType scale = source.scale_dtype;
  const bool known =
      scale == DType::kBF16 ||
      (is_f8 ? scale == DType::kF32 || scale == DType::kF8E8M0 : scale == DType::kF16);
  if (!known) {
    return Error(ErrorCode::kUnsupported,
                 name + " with scales of " + std::string(tensor::Info(scale).name));
  }
  const int64_t unit = is_f8 ? kF8Group : kGroup;
  if (!source.scales || source.scale_group <= 0 || source.scale_group % unit != 0) {
    return Error(ErrorCode::kUnsupported,
                 name + " with a scale for " + std::to_string(source.scale_group) +
                     " inputs; expected a multiple of " + std::to_string(unit));
  }
  if (!is_f8 && source.cols % kGroup != 0) {
    return Error(ErrorCode::kUnsupported, name + " with " + std::to_string(source.cols) +
                                              " inputs; expected a multiple of 32");
  }
  return {};
}

}  // namespace

Result<WeightFormat> PackedFormat(const RowSource& source) {
  HM_ASSIGN(const WeightFormat format, FormatFor(source.dtype, source.scale_dtype));
  const int block = tensor::Info(source.dtype).block_elements;
  const std::string shape =
      "matrix [" + std::to_string(source.rows) + ", " + std::to_string(source.cols) + "]";
  if (source.rows < 0 || source.cols < 0) {
    return Error(ErrorCode::kInvalidArgument, shape + ": negative size");
  }
  if (source.cols % block != 0) {
    return Error(ErrorCode::kInvalidArgument, shape + ": " + std::to_string(source.cols) +
                                                  " inputs are not whole " +
                                                  std::string(tensor::Info(source.dtype).name) +
                                                  " blocks of " + std::to_string(block));
  }
  HM_TRY(CheckScales(source).WithContext(shape));
  return format;
}

Result<PackedMatrix> NewPacked(const RowSource& source, std::span<std::byte> memory) {
  HM_ASSIGN(const WeightFormat format, PackedFormat(source));
  const quant::QuantTraits* traits = quant::TraitsOf(source.dtype);
  const int zero = source.dtype == DType::kI4x8   ? 8
                   : source.dtype == DType::kI8x4 ? 128
                   : traits != nullptr            ? traits->zero
                                                  : 0;
  if (memory.empty()) return PackedMatrix(format, source.rows, source.cols, zero);
  return PackedMatrix(format, source.rows, source.cols, zero, memory);
}

void PackTile(const RowSource& source, int64_t t, PackedMatrix* packed) {
  HM_DCHECK(t >= 0 && t < packed->num_tiles());
  TileTarget target;
  target.quants = reinterpret_cast<uint8_t*>(packed->mutable_tile(t));
  target.scales = target.quants + packed->quant_bytes();
  target.rows = static_cast<int>(std::min(kTileRows, source.rows - t * kTileRows));
  target.cols = source.cols;
  // Rows and inputs that fill up a tile or a word are zero; memory that held another matrix is not.
  if (target.rows < kTileRows || source.cols % 4 != 0) {
    std::memset(packed->mutable_tile(t), 0, packed->tile_bytes());
  }
  const std::byte* rows[kTileRows];
  const std::byte* scales[kTileRows] = {};
  for (int r = 0; r < target.rows; ++r) {
    rows[r] = source.row(t * kTileRows + r);
    if (source.scales) scales[r] = source.scales(t * kTileRows + r);
  }
  PackTileRows(source.dtype, rows,
               {.rows = scales, .group = source.scale_group, .dtype = source.scale_dtype}, target);
}

Result<PackedMatrix> Pack(const RowSource& source) {
  HM_ASSIGN(PackedMatrix packed, NewPacked(source));
  for (int64_t t = 0; t < packed.num_tiles(); ++t) PackTile(source, t, &packed);
  return packed;
}

}  // namespace halfmoon::kernels
