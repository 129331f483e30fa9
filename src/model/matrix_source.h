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
  /// shape, scales that do not fit it, a type that cannot hold weights.
  static Result<MatrixSource> Find(const checkpoint::Checkpoint& checkpoint,
                                   const std::string& name, int64_t rows, int64_t cols);

  const std::string& name() const { return name_; }
  int64_t rows() const { return stored_->view.shape[0]; }
  int64_t cols() const { return stored_->view.shape[1]; }
  /// Bytes in the file.
  size_t stored_bytes() const { return stored_->view.bytes.size(); }

  /// Rows [first, first + count) for packing without loss.
  kernels::RowSource Rows(int64_t first, int64_t count) const;
  kernels::RowSource AllRows() const { return Rows(0, rows()); }
  /// The rows listed, in that order: row i of the result is row order[i] of the tensor.
  kernels::RowSource Gather(std::vector<int64_t> order) const;
  /// Row `row` in float32. out holds cols() floats.
  void DecodeRow(int64_t row, std::span<float> out) const;

 private:
  std::string name_;
  const checkpoint::StoredTensor* stored_ = nullptr;
  size_t row_bytes_ = 0;
};

}  // namespace halfmoon::model
