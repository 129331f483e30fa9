// SPDX-License-Identifier: Apache-2.0
// Where each expert's matrices lie on disk, and what they take in memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "kernels/packed_matrix.h"
#include "model/description.h"
#include "model/matrix_source.h"

namespace halfmoon::model {

/// One matrix of an expert.
struct DiskMatrix {
  MatrixSource source;  ///< its shape and type; the bytes are not looked at
  checkpoint::FileRange values;
  std::optional<checkpoint::FileRange> scales;  ///< of types whose scales lie beside the values
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  size_t packed_bytes = 0;  ///< at most, in kernel layout
};

struct DiskExpert {
  std::array<DiskMatrix, 3> matrices;  ///< gate, up, down

  size_t packed_bytes() const;
  /// What a read of it needs: each range with the blocks around it.
  size_t read_bytes() const;
};

/// Immutable once filled. The checkpoint outlives it.
class ExpertCatalog {
 public:
  /// Adds the experts of a layer. Errors name the tensor: missing, another shape, a type that holds
  /// no weights, not in a file.
  Status AddLayer(const checkpoint::Checkpoint& checkpoint, const ModelDescription& model,
                  int layer);

  size_t size() const { return experts_.size(); }
  size_t num_layers() const { return first_.size(); }
  bool HasLayer(int layer) const;
  /// Number, among all, of expert 0 of a layer that was added.
  size_t FirstOf(int layer) const;
  /// The experts of such a layer.
  std::span<const DiskExpert> Layer(int layer) const {
    return std::span(experts_).subspan(FirstOf(layer), experts_per_layer_);
  }
  const DiskExpert& operator[](size_t index) const { return experts_[index]; }
  /// Of the largest.
  size_t max_packed_bytes() const;
  size_t max_read_bytes() const;
  /// Of all together.
  size_t packed_bytes() const;

 private:
  std::vector<DiskExpert> experts_;
  std::vector<std::optional<size_t>> first_;  // by layer
  size_t experts_per_layer_ = 0;
};

/// The names of all tensors of routed experts.
std::unordered_set<std::string> ExpertTensorNames(const ModelDescription& model);

}  // namespace halfmoon::model
