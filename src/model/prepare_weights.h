// SPDX-License-Identifier: Apache-2.0
// Weights for a model: out of the cache where it has them, packed otherwise.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/description.h"
#include "model/expert_catalog.h"
#include "model/model.h"
#include "model/weights.h"

namespace halfmoon::model {

struct PreparedWeights {
  std::shared_ptr<const void> memory;  ///< the file that `weights` are views of; null: they own it
  WeightFile file;
  ModelWeights weights;
  ExpertCatalog catalog;  ///< with LoadOptions::expert_memory_bytes
};

/// Loads what `description` names. `content` is the checkpoint's fingerprint. Cached weights that
/// cannot be used, and a cache that cannot be written, are a line in the log and nothing else.
/// Errors: as LoadWeights.
Result<PreparedWeights> PrepareWeights(const checkpoint::Checkpoint& checkpoint,
                                       const std::string& content,
                                       const ModelDescription& description, ThreadPool* pool,
                                       const LoadOptions& options);

}  // namespace halfmoon::model
