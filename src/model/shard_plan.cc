// SPDX-License-Identifier: Apache-2.0
#include "model/shard_plan.h"

#include <string>

#include "kernels/packed_matrix.h"

namespace halfmoon::model {

std::vector<StoredMatrix> MatricesOf(const checkpoint::Checkpoint& checkpoint) {
  std::vector<StoredMatrix> matrices;
  for (const std::string& name : checkpoint.Names()) {
    const tensor::TensorView& view = checkpoint.Find(name)->view;
    if (view.shape.rank() != 2) continue;
    matrices.push_back({.rows = view.shape[0],
                        .size_bytes = view.bytes.size(),
                        .expert = name.find(".experts.") != std::string::npos});
  }
  return matrices;
}

std::vector<ShardPart> PlanShards(const ThreadLayout& layout,
                                  std::span<const StoredMatrix> matrices) {
  std::vector<ShardPart> parts;
  for (size_t shard = 0; shard < layout.shards.size(); ++shard) {
    ShardPart part{.node = layout.shards[shard].node,
                   .num_threads = layout.shards[shard].num_threads};
    for (const StoredMatrix& matrix : matrices) {
      const auto tiles =
          static_cast<size_t>((matrix.rows + kernels::kTileRows - 1) / kernels::kTileRows);
      if (tiles == 0) continue;
      // Differences of whole parts, so that the shards' bytes sum up to the matrix's.
      const size_t begin = matrix.size_bytes * layout.ShardBegin(tiles, shard) / tiles;
      const size_t end = matrix.size_bytes * layout.ShardBegin(tiles, shard + 1) / tiles;
      (matrix.expert ? part.expert_bytes : part.dense_bytes) += end - begin;
    }
    parts.push_back(part);
  }
  return parts;
}

}  // namespace halfmoon::model
