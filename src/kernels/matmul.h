// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ for rows of activations and packed weights.
//
// Arithmetic, the same for every ISA that has a form, so that results are equal bit for bit between
// them and do not depend on T, on which rows share a call, or on threads:
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
//
//  bf16 activations (only on kAvx512Bf16):
//   - kBF16: a single accumulator; for ascending pairs of inputs k, k + 1, a missing last one being
//     zero, acc = fma(x[k + 1], w[k + 1], acc), then acc = fma(x[k], w[k], acc), each rounded to
//     the nearest float32, ties to even. Operands and sums below the normal numbers become zero of
//     their sign. That is vdpbf16ps, whatever MXCSR says.
//   - kF8: for ascending groups of 128 inputs, sum is the same over the group's pairs, of a 256th
//     of the values before their scale; acc = fma(sum, d, acc).
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

/// T rows of K activations rounded to bfloat16.
struct Bf16Rows {
  const uint16_t* x = nullptr;  ///< [T, K], row stride `stride`
  int64_t stride = 0;           ///< even; odd K is followed by a zero
};

/// Activations of a matmul: exactly one of the forms. The plain formats take f32, and some also
/// bf16 (MultipliesBf16).
struct Activations {
  const float* f32 = nullptr;  ///< [T, K], row stride `stride`
  int64_t stride = 0;
  QuantizedRows int8;
  Bf16Rows bf16;
};

/// Whether `isa` has products with bf16 activations, and whether it has them for `format`.
bool MultipliesBf16(Isa isa);
bool MultipliesBf16(Isa isa, WeightFormat format);

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

/// Rounds x [T, K] (row stride `stride`) to the nearest bfloat16, ties to even, into `out`, whose
/// row stride is even; what is below the normal numbers becomes zero. A zero follows odd K.
/// Requires MultipliesBf16(stream.isa()).
void RoundRows(const Stream& stream, const float* x, int64_t stride, int64_t num_rows, int64_t k,
               uint16_t* out, int64_t out_stride);

}  // namespace halfmoon::kernels
