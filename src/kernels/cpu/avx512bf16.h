// SPDX-License-Identifier: Apache-2.0
// What AVX-512 does better with products of bfloat16 pairs (vdpbf16ps); all else is in avx512.h.
#pragma once

#include <cstdint>

#include "kernels/registry.h"

namespace halfmoon::kernels::avx512bf16 {

void MatMulBf16(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end);
void MatMulF8(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end);
void RoundRow(const float* x, int64_t k, uint16_t* out);
void Attend(const AttendArgs& args);
void StageLatent(const StageLatentArgs& args);

int64_t ProbeBf16(int64_t iterations, int32_t* result);

}  // namespace halfmoon::kernels::avx512bf16
