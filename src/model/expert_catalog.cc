// SPDX-License-Identifier: Apache-2.0
#include "model/expert_catalog.h"

#include <algorithm>
#include <utility>

#include "base/file_reader.h"

namespace halfmoon::model {
namespace {

Result<checkpoint::FileRange> Locate(const checkpoint::Checkpoint& checkpoint,
                                     std::span<const std::byte> bytes, const std::string& name) {
  const std::optional<checkpoint::FileRange> range = checkpoint.Locate(bytes);
  if (range.has_value()) return *range;
  return Error(ErrorCode::kUnsupported,
               "tensor '" + name + "' lies in no file, so it cannot stay on disk");
}

Result<DiskMatrix> FindMatrix(const checkpoint::Checkpoint& checkpoint, const std::string& name,
                              int64_t rows, int64_t cols) {
  HM_ASSIGN(MatrixSource source, MatrixSource::Describe(checkpoint, name, rows, cols));
  DiskMatrix matrix{.source = std::move(source)};
  HM_ASSIGN(matrix.format, matrix.source.Format());
  matrix.packed_bytes = kernels::PackedSizeBytes(matrix.format, rows, cols);
  HM_ASSIGN(matrix.values, Locate(checkpoint, matrix.source.stored_values(), name));
  if (!matrix.source.stored_scales().empty()) {
    HM_ASSIGN(matrix.scales, Locate(checkpoint, matrix.source.stored_scales(), name));
  }
  return matrix;
}

size_t WindowBytes(const checkpoint::FileRange& range) {
  return FileReader::BufferBytes(range.offset, range.size_bytes);
}

template <typename Size>
size_t Largest(const std::vector<DiskExpert>& experts, const Size& size) {
  size_t largest = 0;
  for (const DiskExpert& expert : experts) largest = std::max(largest, size(expert));
  return largest;
}

}  // namespace

size_t DiskExpert::packed_bytes() const {
  size_t total = 0;
  for (const DiskMatrix& matrix : matrices) total += matrix.packed_bytes;
  return total;
}

size_t DiskExpert::read_bytes() const {
  size_t total = 0;
  for (const DiskMatrix& matrix : matrices) {
    total += WindowBytes(matrix.values);
    if (matrix.scales.has_value()) total += WindowBytes(*matrix.scales);
  }
  return total;
}

Status ExpertCatalog::AddLayer(const checkpoint::Checkpoint& checkpoint,
                               const ModelDescription& model, int layer) {
  const auto at = static_cast<size_t>(layer);
  if (first_.size() <= at) first_.resize(at + 1);
  first_[at] = experts_.size();
  experts_per_layer_ = static_cast<size_t>(model.moe.num_experts);
  const int64_t h = model.hidden_dim;
  const int64_t f = model.moe.expert_dim;
  for (int e = 0; e < model.moe.num_experts; ++e) {
    const auto name = [&](const std::string& pattern) {
      return TensorName(pattern, layer, e) + ".weight";
    };
    HM_ASSIGN(DiskMatrix gate, FindMatrix(checkpoint, name(model.names.expert_gate), f, h));
    HM_ASSIGN(DiskMatrix up, FindMatrix(checkpoint, name(model.names.expert_up), f, h));
    HM_ASSIGN(DiskMatrix down, FindMatrix(checkpoint, name(model.names.expert_down), h, f));
    experts_.push_back({.matrices = {std::move(gate), std::move(up), std::move(down)}});
  }
  return {};
}

bool ExpertCatalog::HasLayer(int layer) const {
  const auto at = static_cast<size_t>(layer);
  return at < first_.size() && first_[at].has_value();
}

size_t ExpertCatalog::FirstOf(int layer) const {
  HM_CHECK(HasLayer(layer), "layer " + std::to_string(layer));
  return *first_[static_cast<size_t>(layer)];
}

size_t ExpertCatalog::max_packed_bytes() const {
  return Largest(experts_, [](const DiskExpert& expert) { return expert.packed_bytes(); });
}

size_t ExpertCatalog::max_read_bytes() const {
  return Largest(experts_, [](const DiskExpert& expert) { return expert.read_bytes(); });
}

size_t ExpertCatalog::packed_bytes() const {
  size_t total = 0;
  for (const DiskExpert& expert : experts_) total += expert.packed_bytes();
  return total;
}

std::unordered_set<std::string> ExpertTensorNames(const ModelDescription& model) {
  std::unordered_set<std::string> names;
  for (int layer = 0; layer < model.num_layers() + model.num_mtp_layers; ++layer) {
    for (int e = 0; e < model.moe.num_experts; ++e) {
      for (const std::string* pattern :
           {&model.names.expert_gate, &model.names.expert_up, &model.names.expert_down}) {
        names.insert(TensorName(*pattern, layer, e) + ".weight");
      }
    }
  }
  return names;
}

}  // namespace halfmoon::model
