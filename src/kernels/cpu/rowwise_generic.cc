// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/generic.h"
#include "kernels/exp.h"
#include "kernels/matmul.h"

namespace halfmoon::kernels::generic {
namespace {

constexpr int kLanes = 16;

float SumLanes(float lanes[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void QuantizeGroup(const float* x, int count, int8_t* q, float* scale, int32_t* sum16) {
  std::fill_n(q, kGroup, int8_t{0});
  sum16[0] = sum16[1] = 0;
  // Magnitudes compare as integers, and so also catch NaN (above infinity).
  uint32_t max_bits = 0;
  for (int i = 0; i < count; ++i) {
    max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
  }
  const auto max = std::bit_cast<float>(max_bits);
  if (max_bits >= 0x7F800000u) {
    *scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (max < kQuantizeMin) {
    *scale = 0.0f;
    return;
  }
  *scale = max / 127.0f;
  const float inverse = 1.0f / *scale;
  for (int i = 0; i < count; ++i) {
    q[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    sum16[i / 16] += q[i];
  }
}

}  // namespace

void QuantizeRow(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum16) {
  for (int64_t g = 0; g * kGroup < k; ++g) {
    const auto count = static_cast<int>(std::min(kGroup, k - g * kGroup));
    QuantizeGroup(x + g * kGroup, count, q + g * kGroup, scale + g, sum16 + 2 * g);
  }
}

void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* out) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i % kLanes] = std::fma(x[i], x[i], lanes[i % kLanes]);
  const float mean = SumLanes(lanes) / static_cast<float>(n);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = w[i] * (x[i] * inverse);
}

void Add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + Exp(-gate[i])) * up[i];
}

void RopeHalf(float* x, int64_t r, const float* cos, const float* sin) {
  const int64_t half = r / 2;
  for (int64_t j = 0; j < half; ++j) {
    const float a = x[j];
    const float b = x[j + half];
    x[j] = std::fma(a, cos[j], -(b * sin[j]));
    x[j + half] = std::fma(b, cos[j], a * sin[j]);
  }
}

void Softmax(const float* x, int64_t n, float* out) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    out[i] = Exp(x[i] - max);
    lanes[i % kLanes] += out[i];
  }
  const float sum = SumLanes(lanes);
  for (int64_t i = 0; i < n; ++i) out[i] /= sum;
}

void Sigmoid(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1.0f / (1.0f + Exp(-x[i]));
}

void ScaledAdd(float* x, const float* y, float weight, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::fma(weight, y[i], x[i]);
}

}  // namespace halfmoon::kernels::generic
