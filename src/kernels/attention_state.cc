// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_state.h"

#include <algorithm>

#include "kernels/exp.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

void MergeRow(int64_t value_dim, const float* __restrict from, float* __restrict to) {
  const int64_t max = AttendStateMax(value_dim);
  const int64_t sum = AttendStateSum(value_dim);
  if (from[sum] == 0.0f) return;
  if (to[sum] == 0.0f) {
    std::copy_n(from, AttendStateStride(value_dim), to);
    return;
  }
  const float merged = from[max] > to[max] ? from[max] : to[max];
  const float a = Exp(to[max] - merged);
  const float b = Exp(from[max] - merged);
  to[max] = merged;
  to[sum] = to[sum] * a + from[sum] * b;
  for (int64_t d = 0; d < max; d += 16) {
    for (int64_t i = d; i < d + 16; ++i) to[i] = to[i] * a + from[i] * b;
  }
}

}  // namespace

void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to) {
  const int64_t stride = AttendStateStride(value_dim);
  for (int64_t row = 0; row < rows; ++row) {
    MergeRow(value_dim, from + row * stride, to + row * stride);
  }
}

void StoreState(int64_t value_dim, const float* state, float* out) {
  const float sum = state[AttendStateSum(value_dim)];
  for (int64_t d = 0; d < value_dim; ++d) out[d] = state[d] / sum;
}

}  // namespace halfmoon::kernels
