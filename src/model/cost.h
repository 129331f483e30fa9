// SPDX-License-Identifier: Apache-2.0
// What a forward pass costs at least, for comparing measurements with the machine's limits.
#pragma once

#include "model/description.h"
#include "model/expert_catalog.h"
#include "model/model.h"
#include "model/weights.h"

namespace halfmoon::model {

/// See Model::CostPerToken. on_disk: experts that are not among `weights`; nullptr: none.
Cost CostPerToken(const ModelDescription& model, const ModelWeights& weights,
                  const ExpertCatalog* on_disk, Activation activation, kernels::Isa isa);

/// See Model::WeightBytesPerStep.
double WeightBytesPerStep(const ModelDescription& model, const ModelWeights& weights,
                          const ExpertCatalog* on_disk, int tokens);

/// See Model::AttentionCostOf.
AttentionCost AttentionCostOf(const ModelDescription& model, const kernels::KvLayout& layout,
                              kernels::Isa isa, int64_t depth, int64_t tokens);

}  // namespace halfmoon::model
