// SPDX-License-Identifier: Apache-2.0
#include "model/weight_loader.h"

#include <utility>

#include "quant/quant.h"

namespace halfmoon::model {

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

}  // namespace halfmoon::model
