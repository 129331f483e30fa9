// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint into kernel layout, one at a time, on a pool, with progress.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/cached_weights.h"
#include "model/matrix_source.h"
#include "model/model.h"
#include "model/pack_matrix.h"
#include "model/weights.h"

namespace halfmoon::model {

/// Where packed weights come from and go to.
struct WeightStorage {
  const CachedWeights* cached = nullptr;  ///< they are there already; null: they have to be packed
  WeightBuilder* builder = nullptr;       ///< packed ones go there; null: into memory of their own
};

/// Fetches tensors by name, checks their shapes, packs them and reports progress. With cached
/// weights it does the same but for looking at the tensors' bytes. Errors name the tensor, expected
/// and found. Loading thread only.
class WeightLoader {
 public:
  /// `options` and what `storage` names outlive the loader, and the cached weights the model.
  WeightLoader(const checkpoint::Checkpoint& checkpoint, ThreadPool* pool,
               const LoadOptions& options, const WeightStorage& storage)
      : checkpoint_(checkpoint), pool_(pool), options_(options), storage_(storage) {}

  const LoadOptions& options() const { return options_; }

  bool Has(const std::string& name) const { return checkpoint_.Find(name) != nullptr; }
  Result<const checkpoint::StoredTensor*> Find(const std::string& name, const tensor::Shape& shape);
  /// A whole matrix to take parts from; counts as read for the progress.
  Result<MatrixSource> Source(const std::string& name, int64_t rows, int64_t cols);
  /// Packs the rows listed without loss, in that order.
  Result<kernels::PackedMatrix> Pack(const MatrixSource& source, std::vector<int64_t> order);
  /// Packs rows [first, first + count).
  Result<kernels::PackedMatrix> Pack(const MatrixSource& source, int64_t first, int64_t count);
  /// The same turned: [cols, count].
  Result<kernels::PackedMatrix> PackTransposed(const MatrixSource& source, int64_t first,
                                               int64_t count);
  /// A tensor whose bytes stay on disk; counts as done for the progress.
  void Skip(const MatrixSource& source) {
    used_.insert(source.name());
    Done(source.stored_bytes());
  }
  const checkpoint::Checkpoint& checkpoint() const { return checkpoint_; }
  Result<std::vector<float>> Vector(const std::string& name, int64_t n);
  /// `name`.weight [rows, cols] and, where has_bias, `name`.bias [rows].
  Result<Linear> LinearLayer(const std::string& name, int64_t rows, int64_t cols, bool has_bias);
  /// The same with row i taken from row order[i] of the tensor.
  Result<Linear> ReorderedLinear(const std::string& name, int64_t cols, bool has_bias,
                                 const std::vector<int64_t>& order);
  /// Names of the tensors that were asked for.
  const std::set<std::string, std::less<>>& used() const { return used_; }

 private:
  void Done(size_t bytes);
  /// The matrix of that name out of the cached weights; or what `pack` makes, which goes into the
  /// builder under that name.
  template <typename PackInto>
  Result<kernels::PackedMatrix> CachedOr(std::string name, int64_t rows, int64_t cols,
                                         const PackInto& pack);

  const checkpoint::Checkpoint& checkpoint_;
  ThreadPool* pool_;
  const LoadOptions& options_;
  const WeightStorage storage_;
  size_t next_matrix_ = 0;  // of the cached weights, which are in the order of loading
  size_t next_vector_ = 0;
  size_t done_bytes_ = 0;
  size_t released_bytes_ = 0;  // of these, when the checkpoint's pages were given back
  std::set<std::string, std::less<>> used_;
};

/// Grouped-query attention of `layer` (without the output projection).
Result<GroupedAttentionWeights> LoadGroupedAttention(WeightLoader* loader,
                                                     const ModelDescription& model, int layer);
/// Latent attention of `layer` (without the output projection), indexer included.
Result<LatentAttentionWeights> LoadLatentAttention(WeightLoader* loader,
                                                   const ModelDescription& model, int layer);

}  // namespace halfmoon::model
