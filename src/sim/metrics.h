// SPDX-License-Identifier: Apache-2.0
// What a simulation measured.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "cluster/placement.h"

namespace halfmoon::sim {

enum class Outcome : uint8_t {
  kLive,
  kDone,
  kRejected,      ///< on arrival
  kRejectedLate,  ///< after it was computed
};

struct RequestRecord {
  TimeUs arrival_us = 0;
  TimeUs ttft_us = 0;
  double tbt_us = 0.0;      ///< mean of the longest 10 % of its gaps between tokens; 0: it has none
  double prefill_us = 0.0;  ///< computing its prompt
  TimeUs retry_after_us = 0;
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;
  std::array<int32_t, 3> own_tokens{};  ///< of its prefix, from the node's own tier
  int32_t fetched_tokens = 0;           ///< from other nodes
  Outcome outcome = Outcome::kLive;
  cluster::RejectReason reason{};
};

/// A moment of the cluster, all nodes together.
struct LoadSample {
  TimeUs at_us = 0;
  int32_t waiting_prompts = 0;
  int32_t decoding = 0;
  int32_t rejected = 0;  ///< since the sample before
};

struct SimResult {
  std::vector<RequestRecord> requests;
  std::vector<LoadSample> load;
  TimeUs end_us = 0;
  int64_t fetched_bytes = 0;
  int64_t streamed_bytes = 0;
  uint64_t num_fetches = 0;
};

struct Distribution {
  double mean = 0.0;
  double p50 = 0.0;
  double p90 = 0.0;
  double p99 = 0.0;
  double max = 0.0;
};

/// Of any order; all 0 where there is none.
Distribution Describe(std::vector<double> values);

/// Mean of the longest tenth, at least one. Requires at least one; reorders them.
double MeanOfLongestTenth(std::span<float> gaps);

struct Summary {
  int64_t requests = 0;
  int64_t done = 0;
  int64_t rejected = 0;
  int64_t rejected_late = 0;
  int64_t effective = 0;  ///< done, and within both limits
  double effective_share = 0.0;
  double goodput_per_s = 0.0;  ///< effective ones over the time in which requests arrived
  Distribution ttft_s;
  Distribution tbt_ms;
  double tbt_kept_share = 0.0;    ///< of those done
  double prefill_s = 0.0;         ///< of all nodes
  double wasted_prefill_s = 0.0;  ///< for requests that were not effective
  double prompt_tokens = 0.0;     ///< of those computed
  double hit_own_dram = 0.0;      ///< shares of them
  double hit_own_ssd = 0.0;
  double hit_fetched = 0.0;
  double fetched_gb = 0.0;
  double streamed_gb = 0.0;
  double retry_after_s = 0.0;  ///< mean of what those rejected were told
};

Summary Summarize(const SimResult& result, const cluster::ServiceLimits& limits);
json::object SummaryJson(const Summary& summary);

}  // namespace halfmoon::sim
