// SPDX-License-Identifier: Apache-2.0
// What work costs on a node, from what it took: least squares over the work of late.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cluster/node.h"

namespace halfmoon::cluster {

/// Coefficients c >= 0 of y = c[0] x[0] + c[1] x[1] + ..., fitted so that relative errors are
/// least. Samples count for less as others come; what was declared counts as a few samples, so that
/// a coefficient that measurements do not tell apart from others stays near it. Value type.
class LeastSquares {
 public:
  static constexpr size_t kTerms = 3;
  using Terms = std::array<double, kTerms>;

  explicit LeastSquares(const Terms& declared) : declared_(declared), fitted_(declared) {}

  /// Nothing where y is not above 0 or a term is below 0. A sample far from what was expected
  /// counts in part.
  void Observe(const Terms& x, double y);
  const Terms& fitted() const { return fitted_; }
  int64_t num_samples() const { return num_samples_; }

 private:
  void Fit();

  Terms declared_;
  Terms fitted_;
  std::array<Terms, kTerms> products_{};
  Terms sums_{};
  Terms scale_{};        // largest value of each term of late: what a sample means for it
  double weight_ = 0.0;  // of samples, and the sum of their times over the declared ones
  double ratios_ = 0.0;
  int64_t num_samples_ = 0;
};

/// The costs of one node. Value type.
class CostFit {
 public:
  explicit CostFit(const NodeCosts& declared);

  /// Prompt tokens [start, start + tokens), computed in `us`.
  void ObservePrefill(int32_t tokens, int32_t start, double us);
  void ObserveDecode(int32_t sequences, int64_t kv_tokens, double us);

  const NodeCosts& costs() const { return costs_; }

 private:
  LeastSquares prefill_;
  LeastSquares decode_;
  NodeCosts costs_;
};

}  // namespace halfmoon::cluster
