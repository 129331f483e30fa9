// SPDX-License-Identifier: Apache-2.0
// Rotary frequencies and the cosines and sines of positions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/description.h"

namespace halfmoon::model {

/// Frequencies of the rotary pairs, [rotary_dim / 2] (models.md 0: RoPE, llama3 scaling, YaRN).
std::vector<float> RopeFrequencies(const RopeDescription& rope);

/// cos and sin of position * frequency, times `factor`; [frequencies] each. The angle is a float32
/// product as in the reference; its cosine is rounded once from double.
void RopeAngles(std::span<const float> frequencies, int32_t position, float factor, float* cos,
                float* sin);

}  // namespace halfmoon::model
