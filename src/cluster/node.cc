// SPDX-License-Identifier: Apache-2.0
#include "cluster/node.h"

#include <cmath>

namespace halfmoon::cluster {
namespace {

constexpr double kMaxCostUs = 1e9;  // of a token, a sequence, a step
constexpr double kMaxRate = 1e15;
constexpr int32_t kMaxSequences = 1 << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 40;
constexpr int64_t kMaxTokenBytes = int64_t{1} << 30;
constexpr double kLeastShare = 0.01;

double Within(double value, double most) {
  return std::isfinite(value) ? std::clamp(value, 0.0, most) : 0.0;
}

}  // namespace

NodeInfo Sanitized(NodeInfo info) {
  info.kv_tokens = std::clamp<int64_t>(info.kv_tokens, 0, kMaxTokens);
  info.kv_bytes_per_token = std::clamp<int64_t>(info.kv_bytes_per_token, 0, kMaxTokenBytes);
  info.max_running = std::clamp(info.max_running, 0, kMaxSequences);
  info.prefill_share =
      std::isfinite(info.prefill_share) ? std::clamp(info.prefill_share, kLeastShare, 1.0) : 1.0;
  sched::PromptCost& prefill = info.costs.prefill;
  DecodeCost& decode = info.costs.decode;
  for (double* cost : {&prefill.fixed_us, &prefill.token_us, &prefill.position_us, &decode.fixed_us,
                       &decode.sequence_us, &decode.kv_token_us}) {
    *cost = Within(*cost, kMaxCostUs);
  }
  for (double* rate : {&info.costs.network_bytes_per_s, &info.costs.ssd_bytes_per_s}) {
    *rate = Within(*rate, kMaxRate);
  }
  return info;
}

LoadReport Sanitized(LoadReport report) {
  report.decoding = std::clamp(report.decoding, 0, kMaxSequences);
  report.decoding_kv_tokens = std::clamp<int64_t>(report.decoding_kv_tokens, 0, kMaxTokens);
  report.waiting_prompt_tokens = std::clamp<int64_t>(report.waiting_prompt_tokens, 0, kMaxTokens);
  report.step_us = Within(report.step_us, kMaxCostUs);
  return report;
}

}  // namespace halfmoon::cluster
