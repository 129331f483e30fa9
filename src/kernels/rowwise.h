// SPDX-License-Identifier: Apache-2.0
// Row-wise float32 ops. Sums over a row run in 16 lane sums (element i in lane i % 16, ascending),
// the lanes added pairwise (i, i+8), (i, i+4), (i, i+2), (i, i+1): equal bits on every ISA.
// In-place (out == x) is allowed everywhere.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/stream.h"

namespace halfmoon::kernels {

/// A matrix of rows with a stride, f32.
struct Rows {
  float* data = nullptr;
  int64_t count = 0;
  int64_t stride = 0;  ///< floats from row to row
  float* row(int64_t i) const { return data + i * stride; }
};

/// out[i] = w ⊙ (x[i] * (1 / sqrt(mean(x[i]²) + eps))), n wide (models.md 0, RMSNorm).
void RmsNorm(const Stream& stream, const Rows& x, const float* w, int64_t n, float eps,
             const Rows& out);

/// RmsNorm of each head separately: rows hold `heads` runs of d values, w is [d] (Qwen3's q_norm
/// and k_norm).
void RmsNormHeads(const Stream& stream, const Rows& x, const float* w, int heads, int64_t d,
                  float eps);

/// x[i] += y[i], n wide.
void AddRows(const Stream& stream, const Rows& x, const Rows& y, int64_t n);

/// x[i] += b, n wide.
void AddBias(const Stream& stream, const Rows& x, const float* b, int64_t n);

/// out[i] = silu(gate[i]) ⊙ up[i], n wide; silu(z) = z / (1 + Exp(-z)).
void SiluMul(const Stream& stream, const Rows& gate, const Rows& up, int64_t n, const Rows& out);

/// Rotates in place, half-split pairs (x[j], x[j + r/2]) for j < r/2 of each of `heads` runs of d
/// values; cos and sin are [count, r/2].
/// first = fma(a, cos, -(b sin)), second = fma(b, cos, a sin).
void RopeHalf(const Stream& stream, const Rows& x, int heads, int64_t d, int64_t r,
              const float* cos, const float* sin);

/// p[i] = softmax(x[i]), n wide: Exp(x - max) / Σ.
void Softmax(const Stream& stream, const Rows& x, int64_t n, const Rows& out);

/// out[i] = 1 / (1 + Exp(-x[i])), n wide.
void Sigmoid(const Stream& stream, const Rows& x, int64_t n, const Rows& out);

/// out[i] = (x[i] - mean) / sqrt(variance + eps) ⊙ w + b, n wide, w and b [n]; mean and variance in
/// float64 in ascending order, the rest rounded to float32 once. For narrow rows: plain code, the
/// same for every ISA.
void LayerNorm(const Stream& stream, const Rows& x, const float* w, const float* b, int64_t n,
               float eps, const Rows& out);

/// out[i] = Σ_j weight[i * k + j] * y[slot[i * k + j]], fma in ascending j starting from 0 for rows
/// [0, count): the weighted sum of a token's experts. y: rows n wide.
void CombineRows(const Stream& stream, const Rows& y, const int32_t* slot, const float* weight,
                 int k, int64_t n, const Rows& out);

}  // namespace halfmoon::kernels
