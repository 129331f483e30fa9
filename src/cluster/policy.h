// SPDX-License-Identifier: Apache-2.0
// How the conductor chooses, as values: the policies of the Mooncake papers, and our own.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace halfmoon::cluster {

/// Which node prefills.
enum class PrefillChoice : uint8_t {
  kRandom,     ///< any
  kLeastLoad,  ///< the one whose queue ends first
  kLeastTtft,  ///< the one that is predicted to give the first token first
};

/// What prefixes count for.
enum class PrefixUse : uint8_t {
  kLocal,   ///< those that a node has itself
  kGlobal,  ///< those of other nodes too, which are fetched (FAST'25, algorithm 1)
};

/// In which order a node takes the requests of its queue.
enum class QueueOrder : uint8_t {
  kArrival,
  kSlack,  ///< short ones first, as far as all can be in time; those that cannot, later
};

/// A request that is bound to break its class's limits is refused when it arrives, by what load?
enum class RejectPolicy : uint8_t {
  kNone,
  /// Of prefill on arrival, of decode once it is computed, which wastes the computation: what the
  /// others are compared with.
  kLate,
  kEarly,       ///< that of the moment (arXiv 2407.00079, 7.2)
  kPredictive,  ///< that of the moment at which its prefill ends (7.4)
};

struct Policy {
  std::string_view name;
  std::string_view summary;
  PrefillChoice prefill = PrefillChoice::kLeastTtft;
  PrefixUse prefix = PrefixUse::kGlobal;
  /// kGlobal: a prefix is fetched where it is more than so many times as long as the node's own;
  /// 0: wherever that is predicted to be faster than to compute it.
  double balancing_threshold = 0.0;
  QueueOrder order = QueueOrder::kArrival;
  /// A prompt that is short, or would be late elsewhere, is computed where it decodes when that is
  /// predicted to give its first token no later and no token of others beyond its limit.
  bool conditional = false;
};

/// Every policy, the default first.
std::span<const Policy> Policies();
/// nullptr where there is none of that name.
const Policy* FindPolicy(std::string_view name);

std::string_view RejectPolicyName(RejectPolicy policy);
std::optional<RejectPolicy> FindRejectPolicy(std::string_view name);

}  // namespace halfmoon::cluster
