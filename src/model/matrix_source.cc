// SPDX-License-Identifier: Apache-2.0
#include "model/matrix_source.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "quant/quant.h"
#include "tensor/float16.h"

namespace halfmoon::model {
namespace {

using tensor::DType;

// Larger ones are no scales of weights, and 256 times as much still has to be finite.
constexpr float kMaxScale = 1e30f;

float LoadScale(const checkpoint::StoredScales& scales, const std::byte* row, int64_t index) {
  if (scales.view.dtype == DType::kF8E8M0) {
    return tensor::F8E8M0ToF32(static_cast<uint8_t>(row[index]));
  }
  if (scales.view.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, row + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + 2 * index, sizeof(bits));
  return scales.view.dtype == DType::kF16 ? tensor::F16ToF32(bits) : tensor::BF16ToF32(bits);
}

}  // namespace

Result<MatrixSource> MatrixSource::Describe(const checkpoint::Checkpoint& checkpoint,
                                            const std::string& name, int64_t rows, int64_t cols) {
  const tensor::Shape shape{rows, cols};
  const checkpoint::StoredTensor* stored = checkpoint.Find(name);
  if (stored == nullptr) {
    return Error(ErrorCode::kInvalidArgument,
                 "tensor '" + name + "' is missing; expected shape " + shape.ToString());
  }
  if (stored->view.shape != shape) {
    return Error(ErrorCode::kInvalidArgument, "tensor '" + name + "': expected shape " +
                                                  shape.ToString() + ", found " +
                                                  stored->view.shape.ToString());
  }
  MatrixSource source;
  source.name_ = name;
  source.stored_ = stored;
  source.row_bytes_ = stored->view.bytes.size() / static_cast<size_t>(rows);
  source.values_ = source.stored_values().data();
  source.scales_ = source.stored_scales().data();
  return source;
}

Result<MatrixSource> MatrixSource::Find(const checkpoint::Checkpoint& checkpoint,
                                        const std::string& name, int64_t rows, int64_t cols) {
  HM_ASSIGN(MatrixSource source, Describe(checkpoint, name, rows, cols));
  if (source.stored_->scales.has_value()) {
    for (int64_t i = 0; i < source.num_scale_rows(); ++i) HM_TRY(source.CheckScaleRow(i));
    return source;
  }
  // Proves that the type decodes, once, so that reading a row cannot fail.
  std::vector<float> row(static_cast<size_t>(cols));
  HM_TRY(quant::DecodeRow(source.stored_->view.dtype, source.values_, cols, row.data())
             .WithContext("tensor '" + name + "'"));
  return source;
}

MatrixSource MatrixSource::At(const std::byte* values, const std::byte* scales) const {
  MatrixSource moved = *this;
  moved.values_ = values;
  moved.scales_ = scales;
  return moved;
}

Result<kernels::WeightFormat> MatrixSource::Format() const {
  if (!packs()) return kernels::WeightFormat::kF32;
  Result<kernels::WeightFormat> format = kernels::PackedFormat(Gather(RowRange(0, 1)));
  if (!format.ok()) return format.error().WithContext("tensor '" + name_ + "'");
  return format;
}

Status MatrixSource::CheckScaleRow(int64_t scale_row) const {
  const checkpoint::StoredScales& scales = *stored_->scales;
  const int64_t cols = scales.view.shape[1];
  for (int64_t j = 0; j < cols; ++j) {
    const float scale = LoadScale(scales, scales_, scale_row * cols + j);
    if (std::abs(scale) <= kMaxScale) continue;
    return Error(ErrorCode::kCorrupt, "tensor '" + scales.name + "': scale [" +
                                          std::to_string(scale_row) + ", " + std::to_string(j) +
                                          "] is " + std::to_string(scale) +
                                          "; expected a finite number up to 1e30");
  }
  return {};
}

bool MatrixSource::packs() const {
  if (!stored_->scales.has_value()) return true;
  const int64_t group = stored_->scales->block_cols;
  if (stored_->view.dtype == DType::kF8E4M3) return group % kernels::kF8Group == 0;
  // Tiles keep scales of 16 bits only.
  return cols() % kernels::kGroup == 0 && group % kernels::kGroup == 0 &&
         stored_->scales->view.dtype != DType::kF32;
}

const std::byte* MatrixSource::ScaleBytes(int64_t row) const {
  const checkpoint::StoredScales& scales = *stored_->scales;
  const int64_t scale_row = stored_->StoredRow(row) / scales.block_rows;
  return scales_ + static_cast<size_t>(scale_row) *
                       (scales.view.bytes.size() / static_cast<size_t>(scales.view.shape[0]));
}

kernels::RowSource MatrixSource::Gather(std::vector<int64_t> order) const {
  kernels::RowSource source{
      .dtype = stored_->view.dtype, .rows = static_cast<int64_t>(order.size()), .cols = cols()};
  if (stored_->scales.has_value()) {
    source.scale_group = stored_->scales->block_cols;
    source.scale_dtype = stored_->scales->view.dtype;
    source.scales = [from = *this, order](int64_t row) {
      return from.ScaleBytes(order[static_cast<size_t>(row)]);
    };
  }
  source.row = [from = *this, order = std::move(order)](int64_t row) {
    return from.RowBytes(order[static_cast<size_t>(row)]);
  };
  return source;
}

bool MatrixSource::needs_check() const {
  return stored_->view.dtype == DType::kF8E4M3 || quant::IsQuantized(stored_->view.dtype);
}

Status MatrixSource::CheckRow(int64_t row) const {
  if (!needs_check()) return {};
  if (quant::IsQuantized(stored_->view.dtype)) {
    const auto bad = quant::FindBadScale(stored_->view.dtype, RowBytes(row), cols());
    if (!bad.has_value()) return {};
    return Error(ErrorCode::kCorrupt, "tensor '" + name_ + "': scale of block [" +
                                          std::to_string(row) + ", " + std::to_string(*bad) +
                                          "] is not a finite number");
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(RowBytes(row));
  for (int64_t j = 0; j < cols(); ++j) {
    if ((bytes[j] & 0x7Fu) != 0x7Fu) continue;
    return Error(ErrorCode::kCorrupt, "tensor '" + name_ + "': value [" + std::to_string(row) +
                                          ", " + std::to_string(j) + "] is not a number");
  }
  return {};
}

Status MatrixSource::DecodeRow(int64_t row, std::span<float> out) const {
  HM_CHECK(static_cast<int64_t>(out.size()) == cols());
  const std::byte* bytes = RowBytes(row);
  if (!stored_->scales.has_value()) {
    HM_TRY(CheckRow(row));
    return quant::DecodeRow(stored_->view.dtype, bytes, cols(), out.data())
        .WithContext("tensor '" + name_ + "'");
  }
  HM_TRY(CheckRow(row));
  const checkpoint::StoredScales& scales = *stored_->scales;
  const std::byte* scale_row = ScaleBytes(row);
  for (int64_t j = 0; j < cols(); ++j) {
    const float scale = LoadScale(scales, scale_row, j / scales.block_cols);
    float value = 0.0f;
    if (stored_->view.dtype == DType::kF8E4M3) {
      value = tensor::F8E4M3ToF32(static_cast<uint8_t>(bytes[j]));
    } else if (stored_->view.dtype == DType::kI8x4) {
      value = static_cast<float>(static_cast<int>(bytes[j]) - 128);
    } else {
      uint32_t word;
      std::memcpy(&word, bytes + j / 8 * 4, sizeof(word));
      value = static_cast<float>(static_cast<int>(word >> 4 * (j % 8) & 15u) - 8);
    }
    out[static_cast<size_t>(j)] = value * scale;
  }
  return {};
}

std::vector<int64_t> RowRange(int64_t first, int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

}  // namespace halfmoon::model
