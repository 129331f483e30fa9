// SPDX-License-Identifier: Apache-2.0
// How fast a case could be if only the machine's limits counted.
#pragma once

#include "apps/halfmoon/bench_case.h"
#include "kernels/probe.h"
#include "model/model.h"

namespace halfmoon::app {

/// What one pass over a case costs at least.
struct PassCost {
  double tokens = 0;      ///< computed, of all sequences
  double read_bytes = 0;  ///< what each step touches counts once a step, whoever shares it
  double int8_ops = 0;
  double f32_flops = 0;
  double bf16_flops = 0;
};

/// Of a prefill or a decode of `decode_tokens` tokens a sequence.
PassCost CostOfPass(const model::Model& model, const BenchCase& which, int decode_tokens);

/// Reading and computing overlap; the kinds of arithmetic share the same units and do not.
double LimitTokensPerSecond(const PassCost& cost, const kernels::MachineLimits& limits);

}  // namespace halfmoon::app
