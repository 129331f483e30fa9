// SPDX-License-Identifier: Apache-2.0
#include "kernels/rowwise.h"

#include <algorithm>
#include <cmath>

#include "kernels/for_rows.h"
#include "kernels/matmul.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {

void QuantizeRows(const Stream& stream, const float* x, int64_t stride, int64_t num_rows, int64_t k,
                  const QuantizedBuffers& out) {
  const int64_t groups = (k + kGroup - 1) / kGroup;
  ForRows(stream, num_rows, k, [&](int64_t i) {
    stream.table().quantize_row(x + i * stride, k, out.q + i * groups * kGroup,
                                out.scale + i * groups, out.sum16 + i * groups * 2);
  });
}

void RoundRows(const Stream& stream, const float* x, int64_t stride, int64_t num_rows, int64_t k,
               uint16_t* out, int64_t out_stride) {
  ForRows(stream, num_rows, k,
          [&](int64_t i) { stream.table().round_row(x + i * stride, k, out + i * out_stride); });
}

void RmsNorm(const Stream& stream, const Rows& x, const float* w, int64_t n, float eps,
             const Rows& out) {
  ForRows(stream, x.count, n,
          [&](int64_t i) { stream.table().rms_norm(x.row(i), w, n, eps, out.row(i)); });
}

void RmsNormHeads(const Stream& stream, const Rows& x, const float* w, int heads, int64_t d,
                  float eps) {
  ForRows(stream, x.count, heads * d, [&](int64_t i) {
    for (int head = 0; head < heads; ++head) {
      float* run = x.row(i) + head * d;
      stream.table().rms_norm(run, w, d, eps, run);
    }
  });
}

void AddRows(const Stream& stream, const Rows& x, const Rows& y, int64_t n) {
  ForRows(stream, x.count, n, [&](int64_t i) { stream.table().add(x.row(i), y.row(i), n); });
}

void AddBias(const Stream& stream, const Rows& x, const float* b, int64_t n) {
  ForRows(stream, x.count, n, [&](int64_t i) { stream.table().add(x.row(i), b, n); });
}

void SiluMul(const Stream& stream, const Rows& gate, const Rows& up, int64_t n, const Rows& out) {
  ForRows(stream, gate.count, 4 * n,
          [&](int64_t i) { stream.table().silu_mul(gate.row(i), up.row(i), n, out.row(i)); });
}

void RopeHalf(const Stream& stream, const Rows& x, int heads, int64_t d, int64_t r,
              const float* cos, const float* sin) {
  ForRows(stream, x.count, heads * r, [&](int64_t i) {
    for (int head = 0; head < heads; ++head) {
      stream.table().rope_half(x.row(i) + head * d, r, cos + i * (r / 2), sin + i * (r / 2));
    }
  });
}

void Softmax(const Stream& stream, const Rows& x, int64_t n, const Rows& out) {
  ForRows(stream, x.count, 4 * n,
          [&](int64_t i) { stream.table().softmax(x.row(i), n, out.row(i)); });
}

void Sigmoid(const Stream& stream, const Rows& x, int64_t n, const Rows& out) {
  ForRows(stream, x.count, 4 * n,
          [&](int64_t i) { stream.table().sigmoid(x.row(i), n, out.row(i)); });
}

void LayerNorm(const Stream& stream, const Rows& x, const float* w, const float* b, int64_t n,
               float eps, const Rows& out) {
  ForRows(stream, x.count, 16 * n, [&](int64_t i) {
    const float* from = x.row(i);
    float* to = out.row(i);
    double sum = 0.0;
    for (int64_t j = 0; j < n; ++j) sum += from[j];
    const double mean = sum / static_cast<double>(n);
    double squares = 0.0;
    for (int64_t j = 0; j < n; ++j) squares += (from[j] - mean) * (from[j] - mean);
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + double{eps});
    for (int64_t j = 0; j < n; ++j) {
      to[j] = static_cast<float>((from[j] - mean) * inverse * double{w[j]} + double{b[j]});
    }
  });
}

void CombineRows(const Stream& stream, const Rows& y, const int32_t* slot, const float* weight,
                 int k, int64_t n, const Rows& out) {
  ForRows(stream, out.count, k * n, [&](int64_t i) {
    std::fill_n(out.row(i), n, 0.0f);
    for (int64_t j = i * k; j < (i + 1) * k; ++j) {
      stream.table().scaled_add(out.row(i), y.row(slot[j]), weight[j], n);
    }
  });
}

}  // namespace halfmoon::kernels
