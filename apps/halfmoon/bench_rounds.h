// SPDX-License-Identifier: Apache-2.0
// One model beside the peer: our worker and the peer's take turns, case by case and round by round.
// Only the one whose turn it is runs at all.
#pragma once

#include <string>
#include <vector>

#include "apps/halfmoon/bench_options.h"
#include "apps/halfmoon/bench_summary.h"
#include "base/result.h"

namespace halfmoon::app {

/// Measures options.model, a file, with the peer of `python`. Fills what `facts` says of the
/// machine and the run. Usual cases that the model has no context for are left out. Errors name
/// side and case. Requires that this process has no other thread.
Result<ModelResult> RunRounds(const BenchOptions& options, const std::vector<BenchCase>& cases,
                              const std::string& python, ComparisonFacts* facts);

}  // namespace halfmoon::app
