// SPDX-License-Identifier: Apache-2.0
// The AVX-512 kernels; same contracts as generic.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/registry.h"

namespace halfmoon::kernels::avx512 {

extern const MatMulTable kMatMulF32;
extern const MatMulTable kMatMulInt8;

void QuantizeRow(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum16);
void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* out);
void Add(float* x, const float* y, int64_t n);
void SiluMul(const float* gate, const float* up, int64_t n, float* out);
void RopeHalf(float* x, int64_t r, const float* cos, const float* sin);
void Softmax(const float* x, int64_t n, float* out);
void Sigmoid(const float* x, int64_t n, float* out);
void ScaledAdd(float* x, const float* y, float weight, int64_t n);
void Attend(const AttendArgs& args);
void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to);
void StoreState(int64_t value_dim, const float* state, float* out);
void StoreKv(const StoreKvArgs& args);
void StoreLatent(const StoreLatentArgs& args);
void StageHeads(const StageHeadsArgs& args);
void StageLatent(const StageLatentArgs& args);
void IndexScores(const IndexScoreArgs& args);
int64_t ProbeInt8(int64_t iterations, int32_t* result);
int64_t ProbeF32(int64_t iterations, int32_t* result);
int32_t ProbeRead(const std::byte* memory, size_t size_bytes);

}  // namespace halfmoon::kernels::avx512
