// SPDX-License-Identifier: Apache-2.0
#include "model/matrix_source.h"

#include <utility>
#include <vector>

#include "base/check.h"
#include "quant/quant.h"

namespace halfmoon::model {

Result<MatrixSource> MatrixSource::Find(const checkpoint::Checkpoint& checkpoint,
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
  // Proves that the type decodes, once, so that reading a row cannot fail.
  std::vector<float> row(static_cast<size_t>(cols));
  HM_TRY(quant::DecodeRow(stored->view.dtype, stored->view.bytes.data(), cols, row.data())
             .WithContext("tensor '" + name + "'"));
  return source;
}

kernels::RowSource MatrixSource::Rows(int64_t first, int64_t count) const {
  return {.dtype = stored_->view.dtype,
          .rows = count,
          .cols = cols(),
          .row = [stored = stored_, row_bytes = row_bytes_, first](int64_t row) {
            return stored->view.bytes.data() +
                   static_cast<size_t>(stored->StoredRow(first + row)) * row_bytes;
          }};
}

kernels::RowSource MatrixSource::Gather(std::vector<int64_t> order) const {
  const auto count = static_cast<int64_t>(order.size());
  return {.dtype = stored_->view.dtype,
          .rows = count,
          .cols = cols(),
          .row = [stored = stored_, row_bytes = row_bytes_, order = std::move(order)](int64_t row) {
            return stored->view.bytes.data() +
                   static_cast<size_t>(stored->StoredRow(order[static_cast<size_t>(row)])) *
                       row_bytes;
          }};
}

void MatrixSource::DecodeRow(int64_t row, std::span<float> out) const {
  HM_CHECK(static_cast<int64_t>(out.size()) == cols());
  const std::byte* bytes =
      stored_->view.bytes.data() + static_cast<size_t>(stored_->StoredRow(row)) * row_bytes_;
  const Status decoded = quant::DecodeRow(stored_->view.dtype, bytes, cols(), out.data());
  HM_CHECK(decoded.ok(), decoded.ok() ? "" : decoded.error().message());
}

}  // namespace halfmoon::model
