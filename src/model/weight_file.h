// SPDX-License-Identifier: Apache-2.0
// The file that keeps weights in kernel layout between starts: a header, the matrices, a table of
// contents (docs/formats/weight_cache.md). A parser of outside bytes, and what writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/packed_matrix.h"

namespace halfmoon::model {

/// Raised when the file or the way in which checkpoints are packed changes.
inline constexpr uint32_t kWeightFileVersion = 1;
/// Matrices start here; before them lies the header.
inline constexpr size_t kWeightDataOffset = 4096;
/// Bytes of data that share a checksum.
inline constexpr size_t kWeightBlockBytes = size_t{2} << 20;

/// A matrix in the file. `name` says which tensor, and which part or order of its rows.
struct FiledMatrix {
  std::string name;
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int zero = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t offset = 0;  ///< in the file; PackedSizeBytes bytes at a multiple of 64
};

/// A vector, which lies in the table itself: they are small, and read together at every start.
struct FiledVector {
  std::string name;
  std::vector<float> values;
};

/// A checkpoint's file that the weights were made from.
struct FiledSource {
  std::string path;  ///< absolute
  FileIdentity identity;
};

/// What a file holds.
struct WeightTable {
  std::string key;  ///< WeightKey::Text() of what it was made from
  std::vector<FiledSource> sources;
  std::vector<FiledMatrix> matrices;  ///< in the order in which a model is loaded
  std::vector<FiledVector> vectors;   ///< likewise
  std::vector<uint64_t> checksums;    ///< of each block of data, the last one shorter
  uint64_t data_end = 0;              ///< data is [kWeightDataOffset, data_end)
};

/// The table as it follows the data, at `data_end` rounded up to 64.
std::string SerializeTable(const WeightTable& table);
/// The header of a file whose data ends at `data_end` and whose table is `table`.
std::string SerializeHeader(uint64_t data_end, std::string_view table);
/// Where the table of such a file starts.
uint64_t TableOffset(uint64_t data_end);

/// Reads header and table and checks them: their checksums, and that every matrix lies in the data
/// and has a shape that its format allows. Data is not looked at. Errors: kUnsupported for another
/// version, kCorrupt naming what is wrong.
Result<WeightTable> ParseWeightFile(std::span<const std::byte> file);

/// The checksum of data block `block`. Requires that it exists.
uint64_t BlockChecksum(std::span<const std::byte> file, uint64_t data_end, size_t block);

/// Compares checksums of blocks spread evenly over the data: `max_blocks` of them, all where there
/// are no more. Errors: kCorrupt naming the first that differs.
Status CheckBlocks(std::span<const std::byte> file, const WeightTable& table, size_t max_blocks,
                   ThreadPool* pool);

}  // namespace halfmoon::model
