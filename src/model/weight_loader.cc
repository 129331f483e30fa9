// SPDX-License-Identifier: Apache-2.0
#include "model/weight_loader.h"

#include <utility>

#include "quant/quant.h"

namespace halfmoon::model {
namespace {

/// The next entry of that name from `*next` on. A file may have more than this model reads; what it
/// reads is in the same order.
template <typename Filed>
const Filed* NextNamed(const std::vector<Filed>& entries, const std::string& name, size_t* next) {
  for (size_t i = *next; i < entries.size(); ++i) {
    if (entries[i].name != name) continue;
    *next = i + 1;
    return &entries[i];
  }
  return nullptr;
}

std::string PartName(const MatrixSource& source, int64_t first, int64_t count) {
  if (first == 0 && count == source.rows()) return source.name();
  return source.name() + " rows " + std::to_string(first) + "+" + std::to_string(count);
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
  HM_ASSIGN(MatrixSource source, storage_.cached != nullptr
                                     ? MatrixSource::Describe(checkpoint_, name, rows, cols)
                                     : MatrixSource::Find(checkpoint_, name, rows, cols));
  Done(source.stored_bytes());
  return source;
}

template <typename PackInto>
Result<kernels::PackedMatrix> WeightLoader::CachedOr(std::string name, int64_t rows, int64_t cols,
                                                     const PackInto& pack) {
  if (storage_.cached == nullptr) {
    if (storage_.builder == nullptr) return pack(PackMemory());
    HM_ASSIGN(kernels::PackedMatrix packed,
              pack([this](size_t size) { return storage_.builder->Allocate(size); }));
    storage_.builder->Add(std::move(name), packed);
    return packed;
  }
  const FiledMatrix* filed = NextNamed(storage_.cached->table().matrices, name, &next_matrix_);
  if (filed == nullptr || filed->rows != rows || filed->cols != cols) {
    return Error(ErrorCode::kCorrupt, "matrix '" + name + "' is missing or of another shape");
  }
  return storage_.cached->View(*filed);
}

Result<kernels::PackedMatrix> WeightLoader::Pack(const MatrixSource& source,
                                                 std::vector<int64_t> order) {
  const auto rows = static_cast<int64_t>(order.size());
  return CachedOr(source.name() + " reordered", rows, source.cols(), [&](const PackMemory& memory) {
    return PackMatrix(source, std::move(order), pool_, memory);
  });
}

Result<kernels::PackedMatrix> WeightLoader::Pack(const MatrixSource& source, int64_t first,
                                                 int64_t count) {
  return CachedOr(PartName(source, first, count), count, source.cols(),
                  [&](const PackMemory& memory) {
                    return PackMatrix(source, RowRange(first, count), pool_, memory);
                  });
}

Result<kernels::PackedMatrix> WeightLoader::PackTransposed(const MatrixSource& source,
                                                           int64_t first, int64_t count) {
  const int64_t cols = source.cols();
  const auto pack = [&](const PackMemory& memory) -> Result<kernels::PackedMatrix> {
    std::vector<float> row(static_cast<size_t>(cols));
    std::vector<float> transposed(static_cast<size_t>(cols * count));
    for (int64_t j = 0; j < count; ++j) {
      HM_TRY(source.DecodeRow(first + j, row));
      for (int64_t i = 0; i < cols; ++i) {
        transposed[static_cast<size_t>(i * count + j)] = row[static_cast<size_t>(i)];
      }
    }
    return PackExact(transposed, cols, count, source.name(), pool_, memory);
  };
  return CachedOr(PartName(source, first, count) + " transposed", cols, count, pack);
}

Result<std::vector<float>> WeightLoader::Vector(const std::string& name, int64_t n) {
  HM_ASSIGN(const checkpoint::StoredTensor* stored, Find(name, tensor::Shape{n}));
  if (storage_.cached != nullptr) {
    const FiledVector* filed = NextNamed(storage_.cached->table().vectors, name, &next_vector_);
    if (filed == nullptr || static_cast<int64_t>(filed->values.size()) != n) {
      return Error(ErrorCode::kCorrupt, "vector '" + name + "' is missing or of another length");
    }
    Done(stored->view.bytes.size());
    return filed->values;
  }
  std::vector<float> stored_order(static_cast<size_t>(n));
  HM_TRY(quant::DecodeRow(stored->view.dtype, stored->view.bytes.data(), n, stored_order.data())
             .WithContext("tensor '" + name + "'"));
  std::vector<float> values(stored_order.size());
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = stored_order[static_cast<size_t>(stored->StoredRow(i))];
  }
  if (storage_.builder != nullptr) storage_.builder->Add(name, values);
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
  // What is packed is not read again: without this, memory would hold it twice until the end.
  constexpr size_t kReleaseBytes = size_t{64} << 20;
  if (storage_.cached == nullptr && done_bytes_ - released_bytes_ >= kReleaseBytes) {
    released_bytes_ = done_bytes_;
    checkpoint_.Release();
  }
  if (options_.progress) options_.progress(done_bytes_, checkpoint_.size_bytes());
}

}  // namespace halfmoon::model
