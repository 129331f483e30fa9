// SPDX-License-Identifier: Apache-2.0
// Which NUMA node holds what of a model's weights. Every matrix, experts included, is split between
// the nodes by output rows, in proportion to the threads there: nothing is held twice, and each
// node has the same part of the work whichever experts a token chooses. (Whole experts on nodes
// would leave nodes idle: of 8 experts a token, two nodes get 4 each in one step of four only.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/topology.h"
#include "checkpoint/checkpoint.h"

namespace halfmoon::model {

/// One matrix of a checkpoint.
struct StoredMatrix {
  int64_t rows = 0;
  size_t size_bytes = 0;  ///< as stored
  bool expert = false;    ///< a routed expert's
};

/// What one shard's node holds.
struct ShardPart {
  int node = -1;  ///< as ThreadShard
  int num_threads = 0;
  size_t dense_bytes = 0;
  size_t expert_bytes = 0;
};

/// The matrices among a checkpoint's tensors; reads none of them.
std::vector<StoredMatrix> MatricesOf(const checkpoint::Checkpoint& checkpoint);

/// One part for each shard of `layout`; tiles are divided as the products divide them.
std::vector<ShardPart> PlanShards(const ThreadLayout& layout,
                                  std::span<const StoredMatrix> matrices);

}  // namespace halfmoon::model
