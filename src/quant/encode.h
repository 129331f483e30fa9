// SPDX-License-Identifier: Apache-2.0
// Choice of scales and integers for one block. Callers outside this folder use quant.h.
#pragma once

#include "quant/unpack.h"

namespace halfmoon::quant {

/// Fills `out` with the encoding of traits.super floats at `x`. Blocks of one scale take it from
/// the extreme values, as the formats' usual converters do (equal to theirs bit for bit);
/// superblocks search for scales of least squared error.
void EncodeBlock(const QuantTraits& traits, const float* x, UnpackedBlock* out);

}  // namespace halfmoon::quant
