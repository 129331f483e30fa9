// SPDX-License-Identifier: Apache-2.0
#include "model/pack_matrix.h"

#include <bit>
#include <mutex>
#include <utility>

#include "base/numa_memory.h"
#include "tensor/float16.h"

namespace halfmoon::model {
namespace {

/// check(i) for all i below `count`; one of the errors, if there is any.
template <typename Check>
Status CheckAll(size_t count, ThreadPool* pool, const Check& check) {
  std::mutex mutex;
  Status checked;
  pool->ParallelFor(count, [&](size_t i, int) {
    Status one = check(i);
    if (one.ok()) return;
    const std::lock_guard lock(mutex);
    checked = std::move(one);
  });
  return checked;
}

/// The tiles that a shard of the pool multiplies with, on its node. What a system refuses to place
/// is first touched by the shard that packs it, which has the same effect but for the pieces that
/// others help with.
void PlaceShards(const ThreadPool& pool, kernels::PackedMatrix* packed) {
  if (pool.num_shards() == 1) return;
  const auto tiles = static_cast<size_t>(packed->num_tiles());
  for (size_t shard = 0; shard < pool.num_shards(); ++shard) {
    const size_t begin = pool.ShardBegin(tiles, shard);
    const size_t size = (pool.ShardBegin(tiles, shard + 1) - begin) * packed->tile_bytes();
    (void)PlaceOnNode({packed->tile(static_cast<int64_t>(begin)), size},
                      pool.layout().shards[shard].node);
  }
}

Result<kernels::PackedMatrix> PackRows(const kernels::RowSource& source, const std::string& name,
                                       ThreadPool* pool, const PackMemory& memory) {
  std::span<std::byte> into;
  if (memory) {
    Result<kernels::WeightFormat> format = kernels::PackedFormat(source);
    if (!format.ok()) return format.error().WithContext("tensor '" + name + "'");
    HM_ASSIGN(into, memory(kernels::PackedSizeBytes(*format, source.rows, source.cols)));
  }
  Result<kernels::PackedMatrix> packed = kernels::NewPacked(source, into);
  if (!packed.ok()) return packed.error().WithContext("tensor '" + name + "'");
  PlaceShards(*pool, &*packed);
  pool->ParallelFor(static_cast<size_t>(packed->num_tiles()), [&](size_t tile, int) {
    kernels::PackTile(source, static_cast<int64_t>(tile), &*packed);
  });
  return packed;
}

/// Rows of values that lie one after the other.
template <typename T>
kernels::RowSource PlainRows(tensor::DType dtype, std::span<const T> values, int64_t rows,
                             int64_t cols) {
  return {.dtype = dtype, .rows = rows, .cols = cols, .row = [values, cols](int64_t row) {
            return reinterpret_cast<const std::byte*>(values.data() + row * cols);
          }};
}

}  // namespace

Status CheckScales(const MatrixSource& source, ThreadPool* pool) {
  return CheckAll(static_cast<size_t>(source.num_scale_rows()), pool,
                  [&](size_t i) { return source.CheckScaleRow(static_cast<int64_t>(i)); });
}

Result<kernels::PackedMatrix> PackMatrix(const MatrixSource& source, std::vector<int64_t> order,
                                         ThreadPool* pool, const PackMemory& memory) {
  if (source.packs()) {
    if (source.needs_check()) {
      HM_TRY(CheckAll(order.size(), pool, [&](size_t i) { return source.CheckRow(order[i]); }));
    }
    return PackRows(source.Gather(std::move(order)), source.name(), pool, memory);
  }
  std::vector<float> decoded(order.size() * static_cast<size_t>(source.cols()));
  for (size_t i = 0; i < order.size(); ++i) {
    const auto cols = static_cast<size_t>(source.cols());
    HM_TRY(source.DecodeRow(order[i], std::span(decoded).subspan(i * cols, cols)));
  }
  return PackExact(decoded, static_cast<int64_t>(order.size()), source.cols(), source.name(), pool,
                   memory);
}

Result<kernels::PackedMatrix> PackExact(std::span<const float> from, int64_t rows, int64_t cols,
                                        const std::string& name, ThreadPool* pool,
                                        const PackMemory& memory) {
  bool fits_bf16 = true;
  bool fits_f16 = true;
  for (const float value : from) {
    const auto bits = std::bit_cast<uint32_t>(value);
    fits_bf16 = fits_bf16 && (bits & 0xFFFFu) == 0;
    const uint32_t there_and_back =
        std::bit_cast<uint32_t>(tensor::F16ToF32(tensor::F32ToF16(value)));
    fits_f16 = fits_f16 && there_and_back == bits;
  }
  if (!fits_bf16 && !fits_f16) {
    return PackRows(PlainRows(tensor::DType::kF32, from, rows, cols), name, pool, memory);
  }
  std::vector<uint16_t> halves(from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    halves[i] = fits_bf16 ? static_cast<uint16_t>(std::bit_cast<uint32_t>(from[i]) >> 16)
                          : tensor::F32ToF16(from[i]);
  }
  return PackRows(PlainRows(fits_bf16 ? tensor::DType::kBF16 : tensor::DType::kF16,
                            std::span<const uint16_t>(halves), rows, cols),
                  name, pool, memory);
}

}  // namespace halfmoon::model
