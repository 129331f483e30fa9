// SPDX-License-Identifier: Apache-2.0
// Comparing outputs with the reference and with each other. Tolerances: tests/golden/README.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "golden/golden_data.h"
#include "model/model.h"

namespace halfmoon::golden {

bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

/// Compares rows of `got` named by `positions` with `expected`.
void ExpectClose(const Table& expected, const std::vector<int32_t>& positions,
                 const std::vector<float>& got, const std::string& what);

/// The logits of every prompt, computed in chunks of `chunk` tokens, are those of the reference,
/// and so is the likeliest token at each position.
void ExpectReferenceLogits(const Variant& variant, model::Model* model, size_t chunk);

/// So are the greedy continuations of every prompt.
void ExpectReferenceGreedy(const Variant& variant, model::Model* model);

}  // namespace halfmoon::golden
