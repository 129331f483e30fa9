// SPDX-License-Identifier: Apache-2.0
#include "quant/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/float16.h"

namespace halfmoon::quant {
namespace {

/// Integer in [0, max] of a rounded value; NaN gives 0.
uint8_t ClampToInteger(float value, int max) {
  if (!(value > 0)) return 0;
  return static_cast<uint8_t>(value < static_cast<float>(max) ? value : static_cast<float>(max));
}

float Inverse(float d) { return d == 0 ? 0.0f : 1.0f / d; }

void EncodeSymmetric(const QuantTraits& traits, const float* x, UnpackedBlock* out) {
  const int max_q = (1 << traits.bits) - 1;
  float extreme = 0;  // The value of largest magnitude, the first of equals.
  for (int i = 0; i < traits.super; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  if (traits.bits == 8) {
    const float d = std::abs(extreme) / 127.0f;
    const float inverse = Inverse(d);
    out->d_f16 = tensor::F32ToF16(d);
    for (int i = 0; i < traits.super; ++i) {
      out->q[i] = ClampToInteger(std::round(x[i] * inverse) + 128.0f, max_q);
    }
    return;
  }
  // The side of `extreme` gets the integer that has no counterpart on the other side.
  const float d = extreme / static_cast<float>(-traits.zero);
  const float inverse = Inverse(d);
  out->d_f16 = tensor::F32ToF16(d);
  for (int i = 0; i < traits.super; ++i) {
    out->q[i] = ClampToInteger(x[i] * inverse + (static_cast<float>(traits.zero) + 0.5f), max_q);
  }
}

void EncodeAffine(const QuantTraits& traits, const float* x, UnpackedBlock* out) {
  const int max_q = (1 << traits.bits) - 1;
  const auto [low, high] = std::minmax_element(x, x + traits.super);
  const float d = (*high - *low) / static_cast<float>(max_q);
  const float inverse = Inverse(d);
  out->d_f16 = tensor::F32ToF16(d);
  out->m_f16 = tensor::F32ToF16(*low);
  for (int i = 0; i < traits.super; ++i) {
    out->q[i] = ClampToInteger((x[i] - *low) * inverse + 0.5f, max_q);
  }
}

/// Steps of a trial scale around the one that maps the extreme value to the last integer, in tenths
/// of an integer. Wider or finer searches gain less than 0.2 % of the error on Gaussian weights.
constexpr int kTrials = 9;

/// The scale s (may be negative) for which s * q, q in [-zero, zero - 1], is nearest to x in
/// squared error.
float FitScale(const float* x, int n, int zero) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  if (extreme == 0) return 0;
  float best_gain = 0;
  float best_scale = extreme / static_cast<float>(-zero);
  for (int trial = -kTrials; trial <= kTrials; ++trial) {
    const float inverse = (static_cast<float>(-zero) + 0.1f * static_cast<float>(trial)) / extreme;
    float xq = 0;
    float qq = 0;
    for (int i = 0; i < n; ++i) {
      const float q = std::clamp(std::nearbyint(x[i] * inverse), static_cast<float>(-zero),
                                 static_cast<float>(zero - 1));
      xq += x[i] * q;
      qq += q * q;
    }
    // With the best scale xq / qq the squared error is sum(x^2) - xq^2 / qq.
    if (qq > 0 && xq * xq / qq > best_gain) {
      best_gain = xq * xq / qq;
      best_scale = xq / qq;
    }
  }
  return best_scale;
}

struct AffineFit {
  float scale = 0;
  float minimum = 0;  ///< Not negative: it is subtracted.
};

/// Scale and minimum for which scale * q - minimum, q in [0, max_q], is nearest to x in squared
/// error.
AffineFit FitAffine(const float* x, int n, int max_q) {
  const auto [low_at, high_at] = std::minmax_element(x, x + n);
  const float low = std::min(*low_at, 0.0f);
  const float range = *high_at - low;
  if (!(range > 0)) return {.scale = 0, .minimum = -low};
  AffineFit best = {.scale = range / static_cast<float>(max_q), .minimum = -low};
  float best_error = INFINITY;
  const auto count = static_cast<float>(n);
  for (int trial = -kTrials; trial <= kTrials; ++trial) {
    const float inverse = (static_cast<float>(max_q) + 0.1f * static_cast<float>(trial)) / range;
    float sum_q = 0, sum_qq = 0, sum_x = 0, sum_xq = 0;
    for (int i = 0; i < n; ++i) {
      const float q =
          std::clamp(std::nearbyint((x[i] - low) * inverse), 0.0f, static_cast<float>(max_q));
      sum_q += q;
      sum_qq += q * q;
      sum_x += x[i];
      sum_xq += x[i] * q;
    }
    const float determinant = count * sum_qq - sum_q * sum_q;
    if (!(determinant > 0)) continue;
    AffineFit fit = {.scale = (count * sum_xq - sum_x * sum_q) / determinant,
                     .minimum = (sum_q * sum_xq - sum_qq * sum_x) / determinant};
    if (fit.minimum < 0) fit = {.scale = sum_xq / sum_qq, .minimum = 0};
    float error = 0;
    for (int i = 0; i < n; ++i) {
      const float q =
          std::clamp(std::nearbyint((x[i] - low) * inverse), 0.0f, static_cast<float>(max_q));
      const float difference = fit.scale * q - fit.minimum - x[i];
      error += difference * difference;
    }
    if (error < best_error && fit.scale > 0) {
      best_error = error;
      best = fit;
    }
  }
  return best;
}

void EncodeSuperSymmetric(const QuantTraits& traits, const float* x, UnpackedBlock* out) {
  float scales[16];
  float extreme = 0;
  const int groups = traits.super / traits.group;
  for (int g = 0; g < groups; ++g) {
    scales[g] = FitScale(x + g * traits.group, traits.group, traits.zero);
    if (std::abs(scales[g]) > std::abs(extreme)) extreme = scales[g];
  }
  out->d_f16 = tensor::F32ToF16(extreme / -128.0f);
  const float d = tensor::F16ToF32(out->d_f16);
  const float inverse_d = Inverse(d);
  const int max_q = (1 << traits.bits) - 1;
  for (int g = 0; g < groups; ++g) {
    const int sc = ClampToInteger(std::nearbyint(scales[g] * inverse_d) + 128.0f, 255) - 128;
    out->sc[g] = static_cast<uint8_t>(static_cast<int8_t>(sc));
    const float inverse = Inverse(d * static_cast<float>(sc));
    for (int i = g * traits.group; i < (g + 1) * traits.group; ++i) {
      out->q[i] =
          ClampToInteger(std::nearbyint(x[i] * inverse) + static_cast<float>(traits.zero), max_q);
    }
  }
}

void EncodeSuperAffine(const QuantTraits& traits, const float* x, UnpackedBlock* out) {
  AffineFit fits[8];
  float max_scale = 0;
  float max_minimum = 0;
  const int groups = traits.super / traits.group;
  const int max_q = (1 << traits.bits) - 1;
  for (int g = 0; g < groups; ++g) {
    fits[g] = FitAffine(x + g * traits.group, traits.group, max_q);
    max_scale = std::max(max_scale, fits[g].scale);
    max_minimum = std::max(max_minimum, fits[g].minimum);
  }
  constexpr int kMaxScale = 63;
  out->d_f16 = tensor::F32ToF16(max_scale / kMaxScale);
  out->m_f16 = tensor::F32ToF16(max_minimum / kMaxScale);
  const float d = tensor::F16ToF32(out->d_f16);
  const float dmin = tensor::F16ToF32(out->m_f16);
  for (int g = 0; g < groups; ++g) {
    out->sc[g] = ClampToInteger(std::nearbyint(fits[g].scale * Inverse(d)), kMaxScale);
    out->mn[g] = ClampToInteger(std::nearbyint(fits[g].minimum * Inverse(dmin)), kMaxScale);
    const float inverse = Inverse(d * static_cast<float>(out->sc[g]));
    const float minimum = dmin * static_cast<float>(out->mn[g]);
    for (int i = g * traits.group; i < (g + 1) * traits.group; ++i) {
      out->q[i] = ClampToInteger(std::nearbyint((x[i] + minimum) * inverse), max_q);
    }
  }
}

}  // namespace

void EncodeBlock(const QuantTraits& traits, const float* x, UnpackedBlock* out) {
  std::memset(out, 0, sizeof(*out));
  switch (traits.kind) {
    case ScaleKind::kD:
      return EncodeSymmetric(traits, x, out);
    case ScaleKind::kDM:
      return EncodeAffine(traits, x, out);
    case ScaleKind::kSuperDM:
      return EncodeSuperAffine(traits, x, out);
    case ScaleKind::kSuperD:
      return EncodeSuperSymmetric(traits, x, out);
    case ScaleKind::kPower:
      break;  // Read only; EncodeRow has refused it.
  }
}

}  // namespace halfmoon::quant
