// SPDX-License-Identifier: Apache-2.0
// Interleaves the stored blocks of 16 rows into one tile (packed_matrix.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace halfmoon::kernels {

/// Where a tile goes. Rows [rows, 16) become zero weights.
struct TileTarget {
  uint8_t* quants = nullptr;
  uint8_t* scales = nullptr;
  int rows = 0;  ///< rows that exist, 1 .. 16
  int64_t cols = 0;
};

/// Scales that lie beside the values (RowSource::scales).
struct TileScales {
  const std::byte* const* rows = nullptr;  ///< of row r; null where the type has its own
  int64_t group = 0;                       ///< inputs that share one
  tensor::DType dtype = tensor::DType::kF32;
};

/// rows[r]: the stored bytes of row r. Requires a type that FormatFor accepts, and a zero tile
/// where rows are fewer than 16 or cols is not a multiple of 4.
void PackTileRows(tensor::DType dtype, const std::byte* const rows[], const TileScales& scales,
                  const TileTarget& target);

}  // namespace halfmoon::kernels
