// SPDX-License-Identifier: Apache-2.0
// Signed integers of 4 or 8 bits with a bfloat16 scale for each group, packed into 32-bit words:
// the "pack-quantized" form of published safetensors checkpoints.
#pragma once

#include <cstdint>
#include <span>

namespace halfmoon::quant {

/// Encodes x as words [x.size() * bits / 32] and scales [x.size() / group], and writes what they
/// decode to over `decoded` [x.size()]. A scale is never negative; of nearby ones the one with the
/// least squared error is taken. Requires bits 4 or 8, and x.size() a multiple of group, group one
/// of 32. Not finite values give integers without meaning.
void EncodeIntegerGroups(int bits, int64_t group, std::span<const float> x,
                         std::span<uint32_t> words, std::span<uint16_t> scales,
                         std::span<float> decoded);

}  // namespace halfmoon::quant
