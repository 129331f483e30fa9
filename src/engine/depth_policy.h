// SPDX-License-Identifier: Apache-2.0
// How many tokens to guess ahead. A guess costs room in the step that checks it and time to make,
// and saves a step with the probability that it comes true; all three are measured. What is decided
// here changes speed only, never a token.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace halfmoon::engine {

/// Seconds as a function of a count, learned from measurements: the mean of the last few at each
/// count (neighbours share one from 16 on), straight lines between them. What has not been measured
/// for 128 observations is forgotten, so that everything is tried again now and then: one slow step
/// must not rule out its depth for good. Engine thread only.
class CostCurve {
 public:
  /// marginal: what one more costs beyond the largest count measured, relative to an equal share of
  /// that; 0: nothing, 1: in proportion.
  explicit CostCurve(double marginal) : marginal_(marginal) {}

  /// Times of zero and below say nothing and are passed over. One that is far above what was known
  /// counts in part: the machine was doing something else.
  void Observe(int32_t count, double seconds);
  /// 0 as long as nothing is known.
  double At(int32_t count) const;

 private:
  struct Point {
    double count = 0.0;
    double seconds = 0.0;
    int64_t observed = 0;  ///< number of the last observation; 0: none yet
  };
  bool IsFresh(const Point& point) const;

  std::array<Point, 64> points_;
  int64_t observations_ = 0;
  const double marginal_;
};

/// The probability that the next guess comes true, those before it having done so.
class Acceptance {
 public:
  explicit Acceptance(double initial, double weight) : estimate_(initial), weight_(weight) {}
  /// `accepted` guesses came true, and then, with `rejected`, one did not.
  void Observe(int32_t accepted, bool rejected);
  double estimate() const { return estimate_; }

 private:
  double estimate_;
  double weight_;  ///< of the newest observation
};

/// A sequence that gets one token from the next step, and may get more.
struct DepthCandidate {
  double acceptance = 0.0;
  int32_t most = 0;   ///< most guesses that are of use
  int32_t depth = 0;  ///< the answer
};

/// What is known when depths are chosen.
struct DepthCosts {
  const CostCurve& step;   ///< by tokens of a step
  const CostCurve& draft;  ///< by rounds of guessing: all sequences' first, all second guesses, ...
  int32_t other_tokens = 0;   ///< that the step computes besides the candidates' one each
  int32_t budget_tokens = 0;  ///< most guesses together
};

/// Sets each candidate's depth so that the step gives the most expected tokens a second; all 0
/// where guessing does not gain at least 5 % over not guessing, or nothing has been measured yet.
void ChooseDepths(const DepthCosts& costs, std::span<DepthCandidate> candidates);

}  // namespace halfmoon::engine
