// SPDX-License-Identifier: Apache-2.0
// The shared blocks of which every forward pass is made. Each reads the residual stream, and adds
// its update to it.
#pragma once

#include "base/result.h"
#include "model/description.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace halfmoon::model {

/// h += Attn(rms(h)), of the kind that the model has.
void AttentionBlock(const Step& step, const ModelDescription& model, const LayerContext& layer);

/// Grouped-query attention of ws.normed into ws.attended: projections, norms, RoPE, KV write,
/// causal attention.
void GroupedAttention(const Step& step, const ModelDescription& model, const LayerContext& layer);

/// Latent attention of ws.normed into ws.attended (models.md 4), dense or over the keys that the
/// indexer chose: in absorbed form, or, where the layer has weights for it and it is less work, in
/// expanded form (MlaPrefill).
void LatentAttention(const Step& step, const ModelDescription& model, const LayerContext& layer);

/// h += FFN(rms(h)), dense gated FFN.
void DenseFfnBlock(const Step& step, const ModelDescription& model, const LayerContext& layer);

/// h += Σ over chosen experts of weight · FFN_e(rms(h)), plus the shared expert. Router logits are
/// computed in float32 always. Errors, with experts on disk only: those of ExpertStore::Fetch; the
/// residual stream is then unfinished.
Status MoeBlock(const Step& step, const ModelDescription& model, const LayerContext& layer);

/// Adds `linear`'s bias to rows of y, if it has one.
void ApplyBias(const Step& step, const Linear& linear, const kernels::Rows& y);

}  // namespace halfmoon::model
