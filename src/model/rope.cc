// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace halfmoon::model {
namespace {

double Llama3Frequency(const RopeDescription& rope, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double n = rope.original_max_positions;
  if (wavelength > n / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < n / rope.high_freq_factor) return frequency;
  const double s =
      (n / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return frequency * ((1.0 - s) / rope.factor + s);
}

/// The dimension pair that turns `rotations` times within the original context.
double YarnCorrection(const RopeDescription& rope, double rotations) {
  return rope.rotary_dim *
         std::log(rope.original_max_positions / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeDescription& rope) {
  const int half = rope.rotary_dim / 2;
  std::vector<float> frequencies(static_cast<size_t>(half));
  double low = 0.0;
  double high = 0.0;
  if (rope.scaling == RopeScaling::kYarn) {
    low = YarnCorrection(rope, rope.beta_fast);
    high = YarnCorrection(rope, rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, rope.rotary_dim - 1.0);
    if (low == high) high += 0.001;
  }
  for (int i = 0; i < half; ++i) {
    double frequency = std::pow(rope.theta, -2.0 * i / rope.rotary_dim);
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScaling::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      case RopeScaling::kYarn: {
        const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
        frequency = frequency / rope.factor * ramp + frequency * (1.0 - ramp);
        break;
      }
    }
    frequencies[static_cast<size_t>(i)] = static_cast<float>(frequency);
  }
  return frequencies;
}

void RopeAngles(std::span<const float> frequencies, int32_t position, float factor, float* cos,
                float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * factor;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * factor;
  }
}

}  // namespace halfmoon::model
