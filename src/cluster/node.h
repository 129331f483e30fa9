// SPDX-License-Identifier: Apache-2.0
// What the conductor knows of a node: what it may do, what it holds, what work costs there.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>

#include "base/clock.h"
#include "sched/scheduler.h"

namespace halfmoon::cluster {

/// Name of a node, given by whoever keeps the membership; never given to another node.
enum class NodeId : uint32_t {};

constexpr uint32_t ToNumber(NodeId node) { return static_cast<uint32_t>(node); }

/// Where on a node a block lies, fastest first.
enum class Tier : uint8_t { kPages, kDram, kSsd };
inline constexpr int kNumTiers = 3;

/// What a node may be given.
enum class Role : uint8_t { kPrefill, kDecode, kBoth };

constexpr bool Prefills(Role role) { return role != Role::kDecode; }
constexpr bool Decodes(Role role) { return role != Role::kPrefill; }

/// A draining node ends what it has and serves blocks, but is given nothing new. One that is gone
/// is told by NodeLeft; one that is slow shows in its costs.
enum class Health : uint8_t { kServing, kDraining };

/// Time of one step in which sequences decode.
struct DecodeCost {
  double fixed_us = 0.0;
  double sequence_us = 0.0;  ///< for each sequence
  double kv_token_us = 0.0;  ///< for each token that one of them attends to

  double Us(int32_t sequences, int64_t kv_tokens) const {
    if (sequences == 0) return 0.0;
    return fixed_us + sequence_us * sequences + kv_token_us * static_cast<double>(kv_tokens);
  }
  auto operator<=>(const DecodeCost&) const = default;
};

/// Time to compute prompt tokens [start, start + tokens), in microseconds.
inline double PrefillUs(const sched::PromptCost& cost, int32_t tokens, int32_t start) {
  return tokens <= 0 ? 0.0 : cost.fixed_us + cost.Us(tokens, start);
}

/// What work takes on a node: declared when it joins, from then on fitted to what it measures
/// (cost_fit.h). Rates of 0 mean that the time does not count.
struct NodeCosts {
  sched::PromptCost prefill;
  DecodeCost decode;
  double network_bytes_per_s = 0.0;  ///< in each direction
  double ssd_bytes_per_s = 0.0;      ///< reads
};

struct NodeInfo {
  Role role = Role::kBoth;
  Health health = Health::kServing;
  int64_t kv_tokens = 0;           ///< that its pages hold; 0: no limit
  int64_t kv_bytes_per_token = 0;  ///< of a transfer
  int32_t max_running = 0;         ///< sequences that decode together; 0: no limit
  /// Part of its time that prompts get while sequences decode beside them, in (0, 1].
  double prefill_share = 1.0;
  NodeCosts costs;
};

/// What a node says of itself now and then. What it has beyond what the conductor placed there (it
/// was placed by a conductor before this one, or by hand) counts as load from then on.
struct LoadReport {
  int32_t decoding = 0;               ///< sequences
  int64_t decoding_kv_tokens = 0;     ///< that they hold
  int64_t waiting_prompt_tokens = 0;  ///< still to compute
  double step_us = 0.0;               ///< of a late step with those sequences and no prompt tokens;
                                      ///< 0: there was none
};

/// A time that arithmetic on what nodes declared or measured gave, within 30 years.
inline TimeUs ToTimeUs(double us) { return us > 0.0 ? static_cast<TimeUs>(std::min(us, 1e15)) : 0; }

/// What a node says of itself is not trusted: numbers that make no sense become ones that do.
NodeInfo Sanitized(NodeInfo info);
LoadReport Sanitized(LoadReport report);

}  // namespace halfmoon::cluster
