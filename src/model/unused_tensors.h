// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint that a model did not read: weights that would have changed its output.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/description.h"

namespace halfmoon::model {

/// What to do about tensors that no part of a description reads.
enum class UnusedTensors {
  kWarn,    ///< families that are known: their published checkpoints may carry more
  kRefuse,  ///< families described in a file, which has to name every part
};

/// Names that `used` lacks, in order, but for what is known to be no part of the forward pass:
/// layers after the last one (draft layers that were not asked for, and what those repeat of the
/// model), the head of tied embeddings, and tables that follow from the configuration.
std::vector<std::string> FindUnusedTensors(const checkpoint::Checkpoint& checkpoint,
                                           const ModelDescription& description,
                                           const std::set<std::string, std::less<>>& used);

/// Warns of them in the log, or fails with kUnsupported naming the first.
Status HandleUnusedTensors(const std::vector<std::string>& names, UnusedTensors handling);

}  // namespace halfmoon::model
