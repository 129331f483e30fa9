// SPDX-License-Identifier: Apache-2.0
// Quantised weights as safetensors checkpoints publish them (models.md 0, Quantised weights):
// values in one tensor, scales in another, how they fit in config.json.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/gguf_translate.h"

namespace halfmoon::checkpoint {

/// Joins values with their scales, so that each weight is one StoredTensor `X.weight`:
///  - fp8 (DeepSeek, MiniMax, Kimi K2 Instruct): F8_E4M3 `X.weight` [n, k] with F32,
///    BF16 or F8_E8M0 `X.weight_scale_inv` [ceil(n / b), ceil(k / b)] for blocks of b x b;
///  - compressed-tensors, pack-quantized, 4 or 8 bits (Kimi K2 Thinking): I32 `X.weight_packed`
///    [n, ceil(k / 8)] or [n, ceil(k / 4)] with BF16, F16 or F32 `X.weight_scale` [n, k / group]
///    and `X.weight_shape`; becomes I4x8 or I8x4 `X.weight`.
/// The scale tensors themselves disappear. Errors name what is not known of
/// `quantization_config`, and the tensor, expected and found.
Status JoinScales(const json::object& config, TensorMap* tensors);

}  // namespace halfmoon::checkpoint
