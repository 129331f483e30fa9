// SPDX-License-Identifier: Apache-2.0
// A stored matrix as the loader sees it: rows in canonical order, whatever type and scales the
// checkpoint keeps them in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "kernels/packed_matrix.h"

namespace halfmoon::model {

/// One linear layer's weight [rows, cols] in a checkpoint, which has to outlive it. Immutable.
class MatrixSource {
 public:
  /// `name` with its ".weight". Errors name the tensor, expected and found: missing, another
  /// shape, a type that cannot hold weights, scales that are not finite.
  static Result<MatrixSource> Find(const checkpoint::Checkpoint& checkpoint,
                                   const std::string& name, int64_t rows, int64_t cols);
  /// The same without a look at the bytes, which may stay on disk: CheckScaleRow is then due before
  /// rows are used. Errors: missing, another shape.
  static Result<MatrixSource> Describe(const checkpoint::Checkpoint& checkpoint,
                                       const std::string& name, int64_t rows, int64_t cols);
  /// This matrix with its bytes elsewhere: copies of what stored_values() and stored_scales() are.
  MatrixSource At(const std::byte* values, const std::byte* scales) const;

  const std::string& name() const { return name_; }
  int64_t rows() const { return stored_->view.shape[0]; }
  int64_t cols() const { return stored_->view.shape[1]; }
  /// Bytes in the file.
  size_t stored_bytes() const { return stored_->view.bytes.size(); }
  std::span<const std::byte> stored_values() const { return stored_->view.bytes; }
  /// Those beside the values; empty where there are none.
  std::span<const std::byte> stored_scales() const {
    return stored_->scales.has_value() ? stored_->scales->view.bytes : std::span<const std::byte>{};
  }

  /// Whether a kernel format holds the rows as they are stored; otherwise they have to go through
  /// DecodeRow.
  bool packs() const;
  /// The rows listed, in that order, for packing: row i of the result is row order[i] of the
  /// tensor. Requires packs().
  kernels::RowSource Gather(std::vector<int64_t> order) const;
  /// Whether a kernel format can hold it, and which where packs(): F32, the largest of those that
  /// DecodeRow's values may need, elsewhere. Looks at no bytes. Errors name the tensor.
  Result<kernels::WeightFormat> Format() const;
  /// Rows of scales beside the values; 0 where there are none.
  int64_t num_scale_rows() const {
    return stored_->scales.has_value() ? stored_->scales->view.shape[0] : 0;
  }
  /// That a row of those scales are numbers. Errors: kCorrupt naming the place.
  Status CheckScaleRow(int64_t scale_row) const;
  /// Row `row` in float32. out holds cols() floats. Errors: kCorrupt naming a value or scale that
  /// is not a number.
  Status DecodeRow(int64_t row, std::span<float> out) const;
  /// Whether CheckRow is due before packing: the kernels' decoding knows numbers only.
  bool needs_check() const;
  /// That a row and the scales inside it are numbers. Errors as DecodeRow.
  Status CheckRow(int64_t row) const;

 private:
  const std::byte* RowBytes(int64_t row) const {
    return values_ + static_cast<size_t>(stored_->StoredRow(row)) * row_bytes_;
  }
  const std::byte* ScaleBytes(int64_t row) const;

  std::string name_;
  const checkpoint::StoredTensor* stored_ = nullptr;
  const std::byte* values_ = nullptr;
  const std::byte* scales_ = nullptr;
  size_t row_bytes_ = 0;
};

/// first, first + 1, .. first + count - 1.
std::vector<int64_t> RowRange(int64_t first, int64_t count);

}  // namespace halfmoon::model
