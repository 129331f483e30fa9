// SPDX-License-Identifier: Apache-2.0
// What a GGUF file says, in the terms of the published safetensors checkpoints: config.json keys,
// tensor names, vocabulary. Architectures: llama (with experts: mixtral), qwen3, qwen3moe,
// deepseek2 (DeepSeek V3, Kimi K2), deepseek32, bailingmoe2, minimax-m2, glm4moe.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"

namespace halfmoon::checkpoint {

using TensorMap = std::map<std::string, StoredTensor, std::less<>>;

/// The model's configuration. Errors: kUnsupported (unknown architecture, or metadata that changes
/// the mathematics in a way not known here), kCorrupt (missing or nonsensical values), naming the
/// key.
Result<json::object> GgufConfig(const GgufFile& file);

/// Tensors under canonical names; stacked experts become one view each, q and k of llama are marked
/// kRopePairs. Latent attention's kv_b_proj is split in newer files, the keys' half transposed: its
/// halves are k_b_proj [N c, dn] and v_b_proj [N dv, c]. A tensor without a canonical name keeps
/// its own. `config` is GgufConfig's. Errors: kCorrupt naming the tensor.
Result<TensorMap> GgufTensors(const GgufFile& file, const json::object& config);

/// Empty where the file carries no tokenizer. Errors: kCorrupt naming the key.
Result<std::optional<GgufVocabulary>> ReadGgufVocabulary(const GgufMetadata& metadata);

}  // namespace halfmoon::checkpoint
