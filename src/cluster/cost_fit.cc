// SPDX-License-Identifier: Apache-2.0
#include "cluster/cost_fit.h"

#include <algorithm>
#include <cmath>

namespace halfmoon::cluster {
namespace {

constexpr double kKeep = 0.96;     // the last 25 samples count
constexpr double kDeclared = 0.5;  // samples that the declared value of a term counts for
constexpr double kOutlier = 4.0;   // times what was expected, either way

double Sum(const LeastSquares::Terms& c, const LeastSquares::Terms& x) {
  double sum = 0.0;
  for (size_t i = 0; i < c.size(); ++i) sum += c[i] * x[i];
  return sum;
}

}  // namespace

void LeastSquares::Observe(const Terms& x, double y) {
  if (!(y > 0.0) || !std::isfinite(y)) return;
  for (const double term : x) {
    if (!(term >= 0.0) || !std::isfinite(term)) return;
  }
  const double expected = Sum(fitted_, x);
  if (expected > 0.0) y = std::clamp(y, expected / kOutlier, expected * kOutlier);
  // Over the time: each sample counts for as much as another, whatever its size.
  for (size_t i = 0; i < kTerms; ++i) {
    scale_[i] = std::max(scale_[i] * kKeep, x[i] / y);
    for (size_t j = 0; j < kTerms; ++j) {
      products_[i][j] = kKeep * products_[i][j] + x[i] / y * (x[j] / y);
    }
    sums_[i] = kKeep * sums_[i] + x[i] / y;
  }
  const double declared = Sum(declared_, x);
  weight_ = kKeep * weight_ + 1.0;
  ratios_ = kKeep * ratios_ + (declared > 0.0 ? y / declared : 1.0);
  ++num_samples_;
  Fit();
}

// The normal equations with the declared values in their diagonal, which makes them solvable; while
// a coefficient comes out below 0, the lowest is held at 0 and the others are solved again.
void LeastSquares::Fit() {
  std::array<bool, kTerms> held{};
  for (size_t attempt = 0; attempt < kTerms; ++attempt) {
    std::array<Terms, kTerms> a = products_;
    Terms b = sums_;
    for (size_t i = 0; i < kTerms; ++i) {
      const double prior = kDeclared * scale_[i] * scale_[i];
      a[i][i] += prior;
      b[i] += prior * declared_[i] * ratios_ / weight_;
      if (!held[i] && a[i][i] > 0.0) continue;
      for (size_t j = 0; j < kTerms; ++j) a[i][j] = a[j][i] = 0.0;
      a[i][i] = 1.0;
      b[i] = 0.0;
    }
    for (size_t i = 0; i < kTerms; ++i) {
      for (size_t row = i + 1; row < kTerms; ++row) {
        const double factor = a[row][i] / a[i][i];
        for (size_t j = i; j < kTerms; ++j) a[row][j] -= factor * a[i][j];
        b[row] -= factor * b[i];
      }
    }
    for (size_t i = kTerms; i-- > 0;) {
      for (size_t j = i + 1; j < kTerms; ++j) b[i] -= a[i][j] * b[j];
      b[i] /= a[i][i];
    }
    size_t lowest = 0;
    for (size_t i = 1; i < kTerms; ++i) {
      if (b[i] * scale_[i] < b[lowest] * scale_[lowest]) lowest = i;
    }
    fitted_ = b;
    if (b[lowest] >= 0.0) return;
    held[lowest] = true;
  }
  for (double& value : fitted_) value = std::max(0.0, value);
}

CostFit::CostFit(const NodeCosts& declared)
    : prefill_(
          {declared.prefill.fixed_us, declared.prefill.token_us, declared.prefill.position_us}),
      decode_({declared.decode.fixed_us, declared.decode.sequence_us, declared.decode.kv_token_us}),
      costs_(declared) {}

void CostFit::ObservePrefill(int32_t tokens, int32_t start, double us) {
  if (tokens <= 0 || start < 0) return;
  const double n = tokens;
  prefill_.Observe({1.0, n, n * (start + (n + 1.0) / 2.0)}, us);
  const LeastSquares::Terms& c = prefill_.fitted();
  costs_.prefill = {.fixed_us = c[0], .token_us = c[1], .position_us = c[2]};
}

void CostFit::ObserveDecode(int32_t sequences, int64_t kv_tokens, double us) {
  if (sequences <= 0 || kv_tokens < 0) return;
  decode_.Observe({1.0, static_cast<double>(sequences), static_cast<double>(kv_tokens)}, us);
  const LeastSquares::Terms& c = decode_.fitted();
  costs_.decode = {.fixed_us = c[0], .sequence_us = c[1], .kv_token_us = c[2]};
}

}  // namespace halfmoon::cluster
