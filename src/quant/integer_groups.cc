// SPDX-License-Identifier: Apache-2.0
#include "quant/integer_groups.h"

#include <algorithm>
#include <cmath>

#include "tensor/float16.h"

namespace halfmoon::quant {
namespace {

// Scales tried: those that map the largest magnitude to from 1 below to 1.5 above the last integer,
// in steps of kStep. With 4 bits a value cut off can cost less than a coarser grid.
constexpr float kBelow = 1.0f;
constexpr float kAbove = 1.5f;
constexpr float kStep = 0.125f;

/// Nearest integer in [low, high]; low for NaN.
int Nearest(float value, int low, int high) {
  const float rounded = std::nearbyint(value);
  if (!(rounded > static_cast<float>(low))) return low;
  return rounded < static_cast<float>(high) ? static_cast<int>(rounded) : high;
}

struct Fit {
  float error = INFINITY;   ///< squared
  float best_scale = 0.0f;  ///< the scale that fits the integers chosen best
};

Fit TryScale(int high, float scale, std::span<const float> x) {
  const float inverse = 1.0f / scale;
  float error = 0.0f, xq = 0.0f, qq = 0.0f;
  for (const float value : x) {
    const auto q = static_cast<float>(Nearest(value * inverse, -high - 1, high));
    const float difference = q * scale - value;
    error += difference * difference;
    xq += value * q;
    qq += q * q;
  }
  return {.error = error, .best_scale = qq > 0.0f ? xq / qq : 0.0f};
}

/// Bits of the scale with the least squared error.
uint16_t ChooseScale(int bits, std::span<const float> x) {
  const int high = (1 << (bits - 1)) - 1;
  float largest = 0.0f;
  for (const float value : x) largest = std::max(largest, std::abs(value));
  if (!(largest > 0.0f)) return 0;
  uint16_t best = 0;
  float best_error = INFINITY;
  const auto improve = [&](float wanted) {
    const uint16_t scale_bits = tensor::F32ToBF16(wanted);
    const float scale = tensor::BF16ToF32(scale_bits);
    if (!(scale > 0.0f) || !std::isfinite(scale)) return 0.0f;
    const Fit fit = TryScale(high, scale, x);
    if (fit.error < best_error) {
      best_error = fit.error;
      best = scale_bits;
    }
    return fit.best_scale;
  };
  for (float steps = static_cast<float>(high) - kBelow; steps <= static_cast<float>(high) + kAbove;
       steps += kStep) {
    improve(improve(largest / steps));
  }
  return best;
}

}  // namespace

void EncodeIntegerGroups(int bits, int64_t group, std::span<const float> x,
                         std::span<uint32_t> words, std::span<uint16_t> scales,
                         std::span<float> decoded) {
  const int high = (1 << (bits - 1)) - 1;
  const int per_word = 32 / bits;
  std::fill(words.begin(), words.end(), 0u);
  const auto size = static_cast<size_t>(group);
  for (size_t g = 0; g * size < x.size(); ++g) {
    scales[g] = ChooseScale(bits, x.subspan(g * size, size));
    const float scale = tensor::BF16ToF32(scales[g]);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (size_t i = g * size; i < (g + 1) * size; ++i) {
      const int q = Nearest(x[i] * inverse, -high - 1, high);
      decoded[i] = static_cast<float>(q) * scale;
      const auto at = static_cast<int>(i) % per_word * bits;
      words[i / static_cast<size_t>(per_word)] |= static_cast<uint32_t>(q + high + 1) << at;
    }
  }
}

}  // namespace halfmoon::quant
