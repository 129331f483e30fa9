// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ for rows of activations and packed weights.
//
// Arithmetic, the same for every ISA, so that results are equal bit for bit between them and do not
// depend on T, on which rows share a call, or on threads:
//
//  f32 activations: w is decoded to float32 exactly as quant::DecodeRow does; two accumulators an
//  output, for even and odd k: acc = fma(x[k], w[k], acc) for ascending k; y = even + odd.
//
//  int8 activations (integer formats): for ascending groups g of 32 inputs, products are summed as
//  int32, exactly; then, with a = scale[g],
//   - kU4D, kU5D, kU8D, kU4B, kU8B, kL4D, kL4B: acc = fma(float(Σ qa - zero Σ a), d a, acc)
//   - kU4DM, kU5DM: acc = fma(float(Σ qa), d a, acc); acc = fma(m, a float(Σ a), acc)
//   - kU4K, kU5K: acc = fma(float(Σ qa), (d sc) a, acc);
//     acc = fma(-(dmin mn), a float(Σ a), acc)
//   - kL4S: acc = fma(float(Σ qa - zero Σ a), (d sc) a, acc)
//   - kU4S, kU6S: the same, first half of 16, then second.
//   - kU4H: acc = fma(float(Σ qa), (d sc) a, acc), first half of 16, then second; then
//     acc = fma(-(dmin mn), a float(Σ a), acc), the same.
//  d sc and dmin mn are exact in float32; a product with a rounds once to float32.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/packed_matrix.h"
#include "kernels/stream.h"

namespace halfmoon::kernels {

/// T rows of K activations quantised to int8 per group of 32. Rows are padded to whole groups with
/// zeros.
struct QuantizedRows {
  const int8_t* q = nullptr;       ///< [T, groups * 32], in [-127, 127]
  const float* scale = nullptr;    ///< [T, groups]: x is about q * scale
  const int32_t* sum16 = nullptr;  ///< [T, groups * 2]: sums of q over 16 inputs
  int64_t groups = 0;              ///< ceil(K / 32)
};

/// Activations of a matmul: exactly one of the two forms. f32 is required for the plain formats.
struct Activations {
  const float* f32 = nullptr;  ///< [T, K], row stride `stride`
  int64_t stride = 0;
  QuantizedRows int8;
};

/// One product. Output row i of T comes from activation row row_index[i] (or i where row_index is
/// null).
struct MatMulJob {
  const PackedMatrix* weight = nullptr;
  Activations x;
  const int32_t* row_index = nullptr;
  int64_t num_rows = 0;  ///< T
  float* y = nullptr;    ///< [T, N], row stride y_stride; 64-byte alignment not required
  int64_t y_stride = 0;
};

/// Runs all jobs, their (job, tile range) pieces spread over the stream's pool.
void MatMul(const Stream& stream, std::span<const MatMulJob> jobs);

/// Runs one job on the calling thread: for tasks of the stream's pool that need a product of their
/// own.
void MatMulOnThread(const Stream& stream, const MatMulJob& job);

/// Quantises x [T, K] (row stride `stride`) into buffers of the caller: per group d = max|x| / 127,
/// q = round-half-even(x * (1 / d)). Where max|x| is below kQuantizeMin (1 / d would overflow) q
/// and d are 0. A group with a NaN or an infinity gets q = 0 and scale NaN, so that the fault stays
/// visible.
inline constexpr float kQuantizeMin = 0x1p-100f;
struct QuantizedBuffers {
  int8_t* q = nullptr;
  float* scale = nullptr;
  int32_t* sum16 = nullptr;
};
void QuantizeRows(const Stream& stream, const float* x, int64_t stride, int64_t num_rows, int64_t k,
                  const QuantizedBuffers& out);

}  // namespace halfmoon::kernels
