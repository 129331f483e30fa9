// SPDX-License-Identifier: Apache-2.0
// The architectures of GGUF files that are translated, and the parts of their configuration.
// Callers outside this folder use checkpoint.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/gguf_keys.h"

namespace halfmoon::checkpoint {

/// Where a published family keeps what only some families have.
enum class GgufAttention {
  kGrouped,  ///< q, k, v of their own
  kFused,    ///< Ling: one query_key_value
  kLatent,   ///< DeepSeek's compressed keys and values
};

enum class GgufRouting {
  kNone,
  kSoftmax,  ///< mixtral, qwen3_moe
  kSigmoid,  ///< with a bias for the choice, and whatever of groups, shared experts and dense
             ///< layers the family knows
};

/// One architecture: how GGUF names it, how its publisher does, and what it consists of.
struct GgufFamily {
  std::string_view gguf;  ///< general.architecture
  std::string_view model_type;
  std::string_view class_name;
  GgufAttention attention = GgufAttention::kGrouped;
  GgufRouting routing = GgufRouting::kNone;
  /// Groups of experts, shared experts, dense layers first, scaled weights, draft layers.
  bool deepseek_moe = false;
  /// Router and experts lie under block_sparse_moe, and experts are w1, w2, w3.
  bool block_sparse = false;
  /// Rows of q and k are stored in rotation pairs.
  bool rope_pairs = false;
  /// Part of a head may stay unrotated.
  bool partial_rope = false;
};

/// The family of `architecture`, which is mixtral where a llama has experts. Errors: kUnsupported
/// with those that are known.
Result<GgufFamily> FindGgufFamily(std::string_view architecture, bool has_experts);
/// The family that GgufConfig wrote into a configuration.
const GgufFamily& GgufFamilyOf(const json::object& config);

/// q_lora_rank to v_head_dim, and those of the indexer for deepseek_v32.
Status AddLatentAttention(const GgufKeys& keys, const GgufFamily& family, json::object* config);
/// Heads, head_dim and rotary dimensions of all other families.
Status AddGroupedAttention(const GgufKeys& keys, const GgufFamily& family, int64_t hidden_size,
                           json::object* config);
/// Everything about experts. `num_layers` are those that are no draft layers.
Status AddExperts(const GgufKeys& keys, const GgufFamily& family, int64_t num_layers,
                  json::object* config);
/// The value of rope_scaling. `is_kimi`: see the code.
Result<json::value> RopeScaling(const GgufKeys& keys, const GgufFamily& family, bool is_kimi);

}  // namespace halfmoon::checkpoint
