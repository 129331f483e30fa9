// SPDX-License-Identifier: Apache-2.0
// The shared blocks of which every forward pass is made. Each reads the residual stream, and adds
// its update to it.
#pragma once

#include "model/description.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace halfmoon::model {

/// h += Attn(rms(h)): projections, optional head norms, RoPE, KV write, causal attention, output
/// projection.
void AttentionBlock(const Step& step, const ModelDescription& model,
                    const kernels::KvLayout& layout, int layer, const LayerWeights& weights);

/// h += FFN(rms(h)), dense gated FFN.
void DenseFfnBlock(const Step& step, const ModelDescription& model, const LayerWeights& weights);

/// h += Σ over chosen experts of weight · FFN_e(rms(h)). Router logits are computed in float32
/// always.
void MoeBlock(const Step& step, const ModelDescription& model, int layer,
              const LayerWeights& weights);

/// Adds `linear`'s bias to rows of y, if it has one.
void ApplyBias(const Step& step, const Linear& linear, const kernels::Rows& y);

}  // namespace halfmoon::model
