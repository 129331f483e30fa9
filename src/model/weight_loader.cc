// SPDX-License-Identifier: Apache-2.0
#include "model/weight_loader.h"

#include <bit>
#include <mutex>
#include <utility>

#include "quant/quant.h"
#include "tensor/float16.h"

namespace halfmoon::model {
namespace {

Status CheckAll(const MatrixSource& source, std::span<const int64_t> rows, ThreadPool* pool) {
  std::mutex mutex;
  Status checked;
  pool->ParallelFor(rows.size(), [&](size_t i, int) {
    Status row = source.CheckRow(rows[i]);
    if (row.ok()) return;
    const std::lock_guard lock(mutex);
    checked = std::move(row);
  });
  return checked;
}

}  // namespace

Result<const checkpoint::StoredTensor*> WeightLoader::Find(const std::string& name,
                                                           const tensor::Shape& shape) {
  used_.insert(name);
  const checkpoint::StoredTensor* stored = checkpoint_.Find(name);
  if (stored == nullptr) {
    return Error(ErrorCode::kInvalidArgument,
                 "tensor '" + name + "' is missing; expected shape " + shape.ToString());
  }
  if (stored->view.shape != shape) {
    return Error(ErrorCode::kInvalidArgument, "tensor '" + name + "': expected shape " +
                                                  shape.ToString() + ", found " +
                                                  stored->view.shape.ToString());
  }
  return stored;
}

Result<MatrixSource> WeightLoader::Source(const std::string& name, int64_t rows, int64_t cols) {
  used_.insert(name);
  HM_ASSIGN(MatrixSource source, MatrixSource::Find(checkpoint_, name, rows, cols));
  Done(source.stored_bytes());
  return source;
}

Result<kernels::PackedMatrix> WeightLoader::Pack(const MatrixSource& source,
                                                 std::vector<int64_t> order) {
  if (source.packs()) {
    if (source.needs_check()) HM_TRY(CheckAll(source, order, pool_));
    return PackRows(source.Gather(std::move(order)), source.name());
  }
  std::vector<float> decoded(order.size() * static_cast<size_t>(source.cols()));
  for (size_t i = 0; i < order.size(); ++i) {
    const auto cols = static_cast<size_t>(source.cols());
    HM_TRY(source.DecodeRow(order[i], std::span(decoded).subspan(i * cols, cols)));
  }
  return PackExact(decoded, static_cast<int64_t>(order.size()), source.cols(), source.name());
}

Result<kernels::PackedMatrix> WeightLoader::PackRows(const kernels::RowSource& source,
                                                     const std::string& name) {
  Result<kernels::PackedMatrix> packed = kernels::NewPacked(source);
  if (!packed.ok()) return packed.error().WithContext("tensor '" + name + "'");
  pool_->ParallelFor(static_cast<size_t>(packed->num_tiles()), [&](size_t tile, int) {
    kernels::PackTile(source, static_cast<int64_t>(tile), &*packed);
  });
  return packed;
}

Result<std::vector<float>> WeightLoader::Vector(const std::string& name, int64_t n) {
  HM_ASSIGN(const checkpoint::StoredTensor* stored, Find(name, tensor::Shape{n}));
  std::vector<float> stored_order(static_cast<size_t>(n));
  HM_TRY(quant::DecodeRow(stored->view.dtype, stored->view.bytes.data(), n, stored_order.data())
             .WithContext("tensor '" + name + "'"));
  std::vector<float> values(stored_order.size());
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = stored_order[static_cast<size_t>(stored->StoredRow(i))];
  }
  Done(stored->view.bytes.size());
  return values;
}

Result<Linear> WeightLoader::LinearLayer(const std::string& name, int64_t rows, int64_t cols,
                                         bool has_bias) {
  Linear linear;
  const std::string weight = name + ".weight";
  HM_ASSIGN(const MatrixSource source, Source(weight, rows, cols));
  HM_ASSIGN(linear.weight, Pack(source, 0, rows));
  if (has_bias) {
    HM_ASSIGN(linear.bias, Vector(name + ".bias", rows));
  }
  return linear;
}

Result<Linear> WeightLoader::ReorderedLinear(const std::string& name, int64_t cols, bool has_bias,
                                             const std::vector<int64_t>& order) {
  Linear linear;
  const auto rows = static_cast<int64_t>(order.size());
  const std::string weight = name + ".weight";
  HM_ASSIGN(const MatrixSource source, Source(weight, rows, cols));
  HM_ASSIGN(linear.weight, Pack(source, order));
  if (has_bias) {
    HM_ASSIGN(const std::vector<float> bias, Vector(name + ".bias", rows));
    for (const int64_t row : order) linear.bias.push_back(bias[static_cast<size_t>(row)]);
  }
  return linear;
}

void WeightLoader::Done(size_t bytes) {
  done_bytes_ += bytes;
  if (options_.progress) options_.progress(done_bytes_, checkpoint_.size_bytes());
}

Result<kernels::PackedMatrix> WeightLoader::PackExact(const std::vector<float>& from, int64_t rows,
                                                      int64_t cols, const std::string& name) {
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
    return PackRows({.dtype = tensor::DType::kF32,
                     .rows = rows,
                     .cols = cols,
                     .row =
                         [&](int64_t row) {
                           return reinterpret_cast<const std::byte*>(from.data() + row * cols);
                         }},
                    name);
  }
  std::vector<uint16_t> halves(from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    halves[i] = fits_bf16 ? static_cast<uint16_t>(std::bit_cast<uint32_t>(from[i]) >> 16)
                          : tensor::F32ToF16(from[i]);
  }
  return PackRows({.dtype = fits_bf16 ? tensor::DType::kBF16 : tensor::DType::kF16,
                   .rows = rows,
                   .cols = cols,
                   .row =
                       [&](int64_t row) {
                         return reinterpret_cast<const std::byte*>(halves.data() + row * cols);
                       }},
                  name);
}

}  // namespace halfmoon::model
