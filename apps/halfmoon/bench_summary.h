// SPDX-License-Identifier: Apache-2.0
// What rounds of a comparison come to: medians, spreads, ratios, the table. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "kernels/probe.h"

namespace halfmoon::app {

/// The middle one, or the mean of the two in the middle. Requires a value.
double Median(std::vector<double> values);
/// Largest minus smallest, by the median. Requires a value.
double Spread(const std::vector<double>& values);

/// Ratios within rounds: both sides slow down together when the machine does.
struct Ratio {
  double median = 0;
  double least = 0;
  double most = 0;
};
/// ours[i] / theirs[i]. Requires equally many values, at least one.
Ratio PairedRatio(const std::vector<double>& ours, const std::vector<double>& theirs);

/// One setting of the peer, with a value of each round.
struct PeerSeries {
  std::string repack;  ///< "on" or "off"
  std::vector<double> rounds;
};

struct CaseResult {
  std::string name;
  bool is_seconds = false;   ///< less is better; else tokens/s
  std::vector<double> ours;  ///< a value of each round
  std::vector<PeerSeries> peers;
  std::vector<double> limits;  ///< tokens/s at the machine's limit, of each round; empty: none

  /// The setting with the better median. Requires one.
  const PeerSeries& best_peer() const;
  /// Median over rounds of ours by the limit of that round. Requires limits.
  double share() const;
};

/// Load and memory of one side.
struct SideFacts {
  std::string side;  ///< "halfmoon", "llama.cpp, repack on"
  double load_s = 0;
  double load_again_s = 0;  ///< a second load after it; 0: not measured
  double resident_bytes = 0;
};

/// Everything about one model.
struct ModelResult {
  std::string model;
  double file_bytes = 0;
  std::vector<CaseResult> cases;
  std::vector<SideFacts> sides;
  std::vector<kernels::MachineLimits> limits;  ///< of each round
};

/// What is the same for all lines.
struct ComparisonFacts {
  std::string commit;
  std::string version;
  std::string cpu;
  std::string isa;
  int threads = 0;
  std::string peer;          ///< "llama.cpp"
  std::string peer_version;  ///< of llama-cpp-python
  std::string peer_build;    ///< "native", "avx2"
  bool priority_raised = false;
  double stolen_share = 0;  ///< processor time that the hypervisor gave to others
};

/// The JSON line of a case. bench/README.md has the fields.
json::object CaseJson(const ComparisonFacts& facts, const ModelResult& model,
                      const CaseResult& result);
/// The JSON line about load and memory.
json::object SidesJson(const ComparisonFacts& facts, const ModelResult& model);

/// Machine, commit and peer in words, the table of all cases, then limits, load and memory.
std::string Markdown(const ComparisonFacts& facts, const std::vector<ModelResult>& models);

}  // namespace halfmoon::app
