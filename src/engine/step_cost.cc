// SPDX-License-Identifier: Apache-2.0
#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <utility>

namespace halfmoon::engine {
namespace {

constexpr double kKeep = 0.96;    // weight of what was known beside a new chunk: the last 25 count
constexpr double kOutlier = 2.0;  // a chunk counts as at most so many times what was expected
// Terms whose correlation leaves less than this of their determinant are not told apart by times
// that vary by a few percent.
constexpr double kSeparable = 1e-3;

using Matrix = std::array<std::array<double, 3>, 3>;
using Vector = std::array<double, 3>;

/// Coefficients of `terms`, the others 0; nothing where they cannot be told apart or one is below
/// 0. Elimination on the correlation matrix, whose pivots multiply to its determinant.
std::optional<Vector> Solve(const Matrix& products, const Vector& sums,
                            std::span<const size_t> terms) {
  const size_t count = terms.size();
  Vector scale{};
  for (const size_t term : terms) {
    if (products[term][term] <= 0.0) return std::nullopt;
    scale[term] = std::sqrt(products[term][term]);
  }
  Matrix a{};
  Vector b{};
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      a[i][j] = products[terms[i]][terms[j]] / (scale[terms[i]] * scale[terms[j]]);
    }
    b[i] = sums[terms[i]] / scale[terms[i]];
  }
  double determinant = 1.0;
  for (size_t i = 0; i < count; ++i) {
    determinant *= a[i][i];
    if (determinant < kSeparable) return std::nullopt;
    for (size_t row = i + 1; row < count; ++row) {
      const double factor = a[row][i] / a[i][i];
      for (size_t j = i; j < count; ++j) a[row][j] -= factor * a[i][j];
      b[row] -= factor * b[i];
    }
  }
  Vector solution{};
  for (size_t i = count; i-- > 0;) {
    double value = b[i];
    for (size_t j = i + 1; j < count; ++j) value -= a[i][j] * solution[terms[j]] * scale[terms[j]];
    value /= a[i][i];
    if (value < 0.0) return std::nullopt;
    solution[terms[i]] = value / scale[terms[i]];
  }
  return solution;
}

}  // namespace

void StepCosts::Observe(const StepSample& sample) {
  if (sample.us <= 0.0) return;
  if (sample.prompt_tokens == 0) {
    decode_.Observe(sample.decode_rows, sample.us * 1e-6);
    return;
  }
  const double decode_us = DecodeUs(sample.decode_rows);
  if (sample.decode_rows > 0 && decode_us <= 0.0) return;
  if (sample.us > decode_us) ObservePrompt(sample, sample.us - decode_us);
}

double StepCosts::DecodeUs(int32_t rows) const { return rows == 0 ? 0.0 : decode_.At(rows) * 1e6; }

void StepCosts::ObservePrompt(const StepSample& sample, double us) {
  if (prompt_.token_us > 0.0) {
    const double expected = prompt_.fixed_us + prompt_.token_us * sample.prompt_tokens +
                            prompt_.position_us * sample.attended;
    us = std::min(us, kOutlier * expected);
  }
  // Over the time, so that each chunk counts for as much as another, whatever its size.
  const Vector terms{1.0 / us, sample.prompt_tokens / us, sample.attended / us};
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) {
      products_[i][j] = kKeep * products_[i][j] + terms[i] * terms[j];
    }
    sums_[i] = kKeep * sums_[i] + terms[i];
  }
  Fit();
}

void StepCosts::Fit() {
  constexpr std::array<size_t, 3> kAll{1, 2, 0};
  constexpr std::array<size_t, 2> kTokensAndPositions{1, 2};
  constexpr std::array<size_t, 2> kTokensAndOne{1, 0};
  constexpr std::array<size_t, 1> kTokens{1};
  for (const std::span<const size_t> terms :
       {std::span<const size_t>(kAll), std::span<const size_t>(kTokensAndPositions),
        std::span<const size_t>(kTokensAndOne), std::span<const size_t>(kTokens)}) {
    const std::optional<Vector> solution = Solve(products_, sums_, terms);
    if (!solution.has_value() || (*solution)[1] <= 0.0) continue;
    prompt_ = {
        .fixed_us = (*solution)[0], .token_us = (*solution)[1], .position_us = (*solution)[2]};
    return;
  }
}

}  // namespace halfmoon::engine
