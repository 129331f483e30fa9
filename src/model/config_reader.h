// SPDX-License-Identifier: Apache-2.0
// The parts of config.json that families share, read with bounds so that a malformed file ends in
// an error naming the field.
#pragma once

#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "model/description.h"

namespace halfmoon::model {

/// A whole number in [low, high]. Errors name the field, the range and the value.
Result<int64_t> ReadInt(const json::object& config, std::string_view key, int64_t low,
                        int64_t high);
/// As ReadInt; `fallback` where the field is absent or null.
Result<int64_t> ReadIntOr(const json::object& config, std::string_view key, int64_t low,
                          int64_t high, int64_t fallback);
Result<bool> ReadBoolOr(const json::object& config, std::string_view key, bool fallback);

/// hidden_size, vocab_size, intermediate_size, num_hidden_layers, rms_norm_eps,
/// tie_word_embeddings, max_position_embeddings, eos_token_id (one or a list), and grouped-query
/// attention: num_attention_heads, num_key_value_heads, head_dim, attention_bias, RoPE. All layers
/// come out dense with full attention.
Result<ModelDescription> ReadCommon(const json::object& config, std::string_view family);

/// rope_theta + rope_scaling (older files) or rope_parameters (newer). Errors: kUnsupported naming
/// an unknown rope type.
Result<RopeDescription> ReadRope(const json::object& config, int head_dim);

}  // namespace halfmoon::model
