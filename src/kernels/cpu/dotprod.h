// SPDX-License-Identifier: Apache-2.0
// What NEON does better with the dot products of bytes that most cores have since ARMv8.2; all
// else is in neon.h.
#pragma once

#include <cstdint>

#include "kernels/registry.h"

namespace halfmoon::kernels::dotprod {

extern const MatMulTable kMatMulInt8;

int64_t ProbeInt8(int64_t iterations, int32_t* result);

}  // namespace halfmoon::kernels::dotprod
