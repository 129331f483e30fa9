// SPDX-License-Identifier: Apache-2.0
#include "sim/metrics.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/check.h"

namespace halfmoon::sim {
namespace {

json::object DistributionJson(const Distribution& d) {
  return {{"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90}, {"p99", d.p99}, {"max", d.max}};
}

}  // namespace

Distribution Describe(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
  };
  return {.mean = std::accumulate(values.begin(), values.end(), 0.0) /
                  static_cast<double>(values.size()),
          .p50 = at(0.5),
          .p90 = at(0.9),
          .p99 = at(0.99),
          .max = values.back()};
}

double MeanOfLongestTenth(std::span<float> gaps) {
  HM_CHECK(!gaps.empty(), "no gaps");
  const size_t count = (gaps.size() + 9) / 10;
  std::ranges::nth_element(gaps, gaps.begin() + static_cast<std::ptrdiff_t>(count - 1),
                           std::greater<>());
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) sum += gaps[i];
  return sum / static_cast<double>(count);
}

Summary Summarize(const SimResult& result, const cluster::ServiceLimits& limits) {
  Summary s;
  std::vector<double> ttft_s;
  std::vector<double> tbt_ms;
  int64_t tbt_kept = 0;
  double hit_dram = 0.0;
  double hit_ssd = 0.0;
  double hit_fetched = 0.0;
  for (const RequestRecord& record : result.requests) {
    ++s.requests;
    s.prefill_s += record.prefill_us * 1e-6;
    const bool computed = record.prefill_us > 0.0;
    if (computed) {
      s.prompt_tokens += record.prompt_tokens;
      hit_dram += record.own_tokens[0] + record.own_tokens[1];
      hit_ssd += record.own_tokens[2];
      hit_fetched += record.fetched_tokens;
    }
    if (record.outcome == Outcome::kRejected) {
      ++s.rejected;
      s.retry_after_s += static_cast<double>(record.retry_after_us) * 1e-6;
    }
    if (record.outcome == Outcome::kRejectedLate) ++s.rejected_late;
    bool effective = false;
    if (record.outcome == Outcome::kDone) {
      ++s.done;
      ttft_s.push_back(static_cast<double>(record.ttft_us) * 1e-6);
      if (record.output_tokens > 1) tbt_ms.push_back(record.tbt_us * 1e-3);
      const bool in_time = limits.ttft_us <= 0 || record.ttft_us <= limits.ttft_us;
      const bool kept = limits.tbt_us <= 0 || record.tbt_us <= static_cast<double>(limits.tbt_us);
      tbt_kept += kept ? 1 : 0;
      effective = in_time && kept;
    }
    if (effective) {
      ++s.effective;
    } else {
      s.wasted_prefill_s += record.prefill_us * 1e-6;
    }
  }
  if (s.requests == 0) return s;
  const auto share = [](double part, double of) { return of > 0.0 ? part / of : 0.0; };
  s.effective_share = share(static_cast<double>(s.effective), static_cast<double>(s.requests));
  const TimeUs span_us = result.requests.back().arrival_us - result.requests.front().arrival_us;
  s.goodput_per_s = share(static_cast<double>(s.effective), static_cast<double>(span_us) * 1e-6);
  s.ttft_s = Describe(std::move(ttft_s));
  s.tbt_ms = Describe(std::move(tbt_ms));
  s.tbt_kept_share = share(static_cast<double>(tbt_kept), static_cast<double>(s.done));
  s.hit_own_dram = share(hit_dram, s.prompt_tokens);
  s.hit_own_ssd = share(hit_ssd, s.prompt_tokens);
  s.hit_fetched = share(hit_fetched, s.prompt_tokens);
  s.fetched_gb = static_cast<double>(result.fetched_bytes) * 1e-9;
  s.streamed_gb = static_cast<double>(result.streamed_bytes) * 1e-9;
  s.retry_after_s = share(s.retry_after_s, static_cast<double>(s.rejected));
  return s;
}

json::object SummaryJson(const Summary& s) {
  return {{"requests", s.requests},
          {"done", s.done},
          {"rejected", s.rejected},
          {"rejected_late", s.rejected_late},
          {"effective", s.effective},
          {"effective_share", s.effective_share},
          {"goodput_per_s", s.goodput_per_s},
          {"ttft_s", DistributionJson(s.ttft_s)},
          {"tbt_ms", DistributionJson(s.tbt_ms)},
          {"tbt_kept_share", s.tbt_kept_share},
          {"prefill_s", s.prefill_s},
          {"wasted_prefill_s", s.wasted_prefill_s},
          {"prompt_tokens", s.prompt_tokens},
          {"hit_own_dram", s.hit_own_dram},
          {"hit_own_ssd", s.hit_own_ssd},
          {"hit_fetched", s.hit_fetched},
          {"fetched_gb", s.fetched_gb},
          {"streamed_gb", s.streamed_gb},
          {"retry_after_s", s.retry_after_s}};
}

}  // namespace halfmoon::sim
