// SPDX-License-Identifier: Apache-2.0
// Random numbers that are a function of (seed, position): nothing is carried from token to token,
// so neither the batch nor a preemption can change them.
#pragma once

#include <cstdint>

namespace halfmoon::engine {

/// Uniform in [0, 1), 53 bits. Philox4x32-10 with the seed as key and the position as counter
/// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace halfmoon::engine
