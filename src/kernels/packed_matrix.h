// SPDX-License-Identifier: Apache-2.0
// Weights of a linear layer in kernel layout: tiles of 16 output rows interleaved so that one
// vector lane is one output row. A dot product then never needs a horizontal sum, and a token's
// result does not depend on how many tokens share the call: GEMV and GEMM give the same bits
// (docs/formats/packed_matrix.md).
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "kernels/isa.h"
#include "tensor/tensor.h"

namespace halfmoon::kernels {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kGroup = 32;  ///< inputs that share an activation scale

/// A tile holds rows [16 t, 16 t + 16) and all K inputs; rows beyond N are zero. Quantised tiles
/// are all quants, then all scales, then padding to 64 bytes. Values: q unsigned. 4-bit quants, per
/// 32 inputs: 4 chunks of 64 bytes; chunk c, byte 4 r + i: low nibble q[r][8 c + i], high nibble
/// q[r][8 c + 4 + i]. 5- and 6-bit quants: their low 4 bits like these, then chunks of the bits
/// above: byte 4 r + i holds those of q[r][4 w + i] for 8 words w, 1 bit each, or for 4, 2 bits
/// each, low bits first. 8-bit quants, per 32 inputs: 8 chunks of 64 bytes; chunk c, byte 4 r + i:
/// q[r][4 c + i].
enum class WeightFormat : uint8_t {
  kF32,   ///< [K][16] f32
  kF16,   ///< [ceil(K/2)][16][2] f16: inputs k, k+1 of a row side by side
  kBF16,  ///< the same in bf16
  kF8,    ///< [ceil(K/4)][16][4] float8 E4M3; then per 128 inputs f32 d[16], 256 times the scale
  kU4D,   ///< 4-bit, w = d (q - zero); scales per 32 inputs: f16 d[16] (Q4_0)
  kU4DM,  ///< 4-bit, w = d q + m; per 32: f16 d[16], f16 m[16] (Q4_1)
  kU5D,   ///< kU4D with 5 bits (Q5_0)
  kU5DM,  ///< kU4DM with 5 bits (Q5_1)
  kU8D,   ///< kU4D with 8 bits (Q8_0)
  kU4K,   ///< 4-bit, w = (d sc) q - (dmin mn); per 256: f16 d[16], f16 dmin[16], u8 sc[8][16], u8
          ///< mn[8][16]   (Q4_K)
  kU5K,   ///< the same with 5 bits (Q5_K)
  kU4H,   ///< 4-bit, w = (d sc) q - (dmin mn), sc and mn per 16 inputs; per 256: f16 d[16], f16
          ///< dmin[16], u8 sc[16][16], u8 mn[16][16] (Q2_K)
  kU4S,   ///< 4-bit, w = (d sc) (q - zero), sc per 16 inputs; per 256: f16 d[16], i8 sc[16][16]
          ///< (Q3_K)
  kU6S,   ///< the same with 6 bits (Q6_K)
  kU4B,   ///< 4-bit, w = d (q - zero); scales per 32 inputs: bf16 d[16] (INT4 with groups)
  kU8B,   ///< the same with 8 bits (INT8 with groups)
  kL4D,   ///< kU4D with q looked up in a table of 16 by a 4-bit code (IQ4_NL)
  kL4B,   ///< kU4B with q looked up (MXFP4)
  kL4S,  ///< q looked up, w = (d sc) (q - zero), sc per 32 inputs; per 256: f16 d[16], i8 sc[8][16]
         ///< (IQ4_XS)
};
inline constexpr int kNumWeightFormats = 19;
inline constexpr WeightFormat kFirstIntegerFormat = WeightFormat::kU4D;
inline constexpr int64_t kF8Group = 128;  ///< inputs that share a scale of kF8

std::string_view WeightFormatName(WeightFormat format);
/// True for the formats whose weights are integers with scales.
bool IsIntegerFormat(WeightFormat format);

/// Inputs whose scales lie together: a row of the format is a multiple of them. 1 for formats
/// without such blocks.
int64_t InputsPerBlock(WeightFormat format);

/// Names how tiles are laid out for `isa`. Packed bytes of equal names are interchangeable, between
/// builds and machines, so whoever changes the bytes of any format for an ISA changes its name.
std::string_view PackedLayoutName(Isa isa);

/// Bytes of a packed [rows, cols] matrix.
size_t PackedSizeBytes(WeightFormat format, int64_t rows, int64_t cols);

/// A packed [rows, cols] matrix. Move-only; immutable once packed.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, int zero);
  /// The same in memory of the caller's, which outlives it: PackedSizeBytes bytes or more, aligned
  /// to tensor::AlignedBuffer::kAlignment.
  PackedMatrix(WeightFormat format, int64_t rows, int64_t cols, int zero,
               std::span<std::byte> memory);

  WeightFormat format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int zero() const {
    return zero_;
  }  ///< stored value that means 0, of the formats without a minimum
  int64_t num_tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  size_t tile_bytes() const { return tile_bytes_; }
  size_t quant_bytes() const { return quant_bytes_; }  ///< offset of the scales inside a tile
  const std::byte* tile(int64_t t) const { return tiles_ + static_cast<size_t>(t) * tile_bytes_; }
  std::byte* mutable_tile(int64_t t) { return tiles_ + static_cast<size_t>(t) * tile_bytes_; }
  size_t size_bytes() const { return static_cast<size_t>(num_tiles()) * tile_bytes_; }

 private:
  WeightFormat format_ = WeightFormat::kF32;
  int zero_ = 0;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  size_t tile_bytes_ = 0;
  size_t quant_bytes_ = 0;
  tensor::AlignedBuffer data_;  // empty where the memory is the caller's
  std::byte* tiles_ = nullptr;
};

/// The lossless kernel format of a stored type; scale_dtype is that of scales beside the values.
/// Errors: kUnsupported for types that hold no weights.
Result<WeightFormat> FormatFor(tensor::DType dtype,
                               tensor::DType scale_dtype = tensor::DType::kF32);

/// A stored matrix row by row: row(i) is the bytes of output row i in canonical order.
struct RowSource {
  tensor::DType dtype = tensor::DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::function<const std::byte*(int64_t row)> row;
  /// Types without scales of their own (F8_E4M3, I4x8, I8x4): those of row i, each for scale_group
  /// inputs; F32, BF16 or F8_E8M0 for F8_E4M3, BF16 or F16 for the integers.
  std::function<const std::byte*(int64_t row)> scales;
  int64_t scale_group = 0;
  tensor::DType scale_dtype = tensor::DType::kF32;
};

/// Whether `source` can be packed, and as what. Looks at no row. Errors: as NewPacked.
Result<WeightFormat> PackedFormat(const RowSource& source);

/// Lays out an empty matrix for `source`, in `memory` (as PackedMatrix wants it) or, where that is
/// empty, in its own. Errors: kUnsupported (type), kInvalidArgument (cols not whole blocks).
Result<PackedMatrix> NewPacked(const RowSource& source, std::span<std::byte> memory = {});

/// Fills tile `t` from `source`; tiles are independent, so callers spread them over threads.
void PackTile(const RowSource& source, int64_t t, PackedMatrix* packed);

/// Both of the above, all tiles, on the calling thread.
Result<PackedMatrix> Pack(const RowSource& source);

}  // namespace halfmoon::kernels
