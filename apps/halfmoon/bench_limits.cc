// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_limits.h"

#include <algorithm>

namespace halfmoon::app {

PassCost CostOfPass(const model::Model& model, const BenchCase& which, int decode_tokens) {
  const bool prefill = which.kind == BenchCase::Kind::kPrefill;
  const int step_tokens =
      prefill ? std::min(which.tokens, model.options().max_step_tokens) : which.sequences;
  const double tokens = prefill ? which.tokens : double{1} * which.sequences * decode_tokens;
  const double steps = tokens / step_tokens;
  const model::Cost token = model.CostPerToken();
  const model::AttentionCost attention =
      model.AttentionCostOf(which.depth, prefill ? which.tokens : decode_tokens);
  const double sequences = prefill ? 1 : which.sequences;
  // A prompt's tokens share what is read of the cache, and it stays small beside the arithmetic.
  const double kv_bytes = prefill ? 0 : sequences * attention.kv_bytes;
  return {.tokens = tokens,
          .read_bytes = steps * model.WeightBytesPerStep(step_tokens) + kv_bytes,
          .int8_ops = tokens * token.int8_ops,
          .f32_flops = tokens * token.f32_flops + sequences * attention.f32_flops,
          .bf16_flops = tokens * token.bf16_flops + sequences * attention.bf16_flops};
}

double LimitTokensPerSecond(const PassCost& cost, const kernels::MachineLimits& limits) {
  const double read_s = cost.read_bytes / limits.read_bytes_per_s;
  double compute_s =
      cost.int8_ops / limits.int8_ops_per_s + cost.f32_flops / limits.f32_flops_per_s;
  // An ISA without such products has no limit of them.
  if (cost.bf16_flops > 0) compute_s += cost.bf16_flops / limits.bf16_flops_per_s;
  return cost.tokens / std::max(read_s, compute_s);
}

}  // namespace halfmoon::app
