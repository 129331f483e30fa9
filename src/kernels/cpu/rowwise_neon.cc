// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/neon.h"
#include "kernels/cpu/rowwise_impl.h"
#include "kernels/cpu/vec_neon.h"

namespace halfmoon::kernels::neon {

void QuantizeRow(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum16) {
  impl::QuantizeRow<Vec>(x, k, q, scale, sum16);
}
void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* out) {
  impl::RmsNorm<Vec>(x, w, n, eps, out);
}
void Add(float* x, const float* y, int64_t n) { impl::Add<Vec>(x, y, n); }
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  impl::SiluMul<Vec>(gate, up, n, out);
}
void RopeHalf(float* x, int64_t r, const float* cos, const float* sin) {
  impl::RopeHalf<Vec>(x, r, cos, sin);
}
void Softmax(const float* x, int64_t n, float* out) { impl::Softmax<Vec>(x, n, out); }
void Sigmoid(const float* x, int64_t n, float* out) { impl::Sigmoid<Vec>(x, n, out); }
void ScaledAdd(float* x, const float* y, float weight, int64_t n) {
  impl::ScaledAdd<Vec>(x, y, weight, n);
}

}  // namespace halfmoon::kernels::neon
