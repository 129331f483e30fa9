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
  /// Short ones first, as far as nobody is late for it. One that would be late itself, make another
  /// late, or take a large part of what is left of a long queue goes behind all others, or is
  /// refused where the conductor refuses anything.
  kSlack,
};

/// Which node gives the first token, where one prefills and another decodes.
enum class FirstToken : uint8_t {
  kPrefill,  ///< at the end of the prompt; its KV follows, and the second token waits for it
  kDecode,   ///< in its first step, as nodes of halfmoon do: the last token of a prompt is left to
             ///< it
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
  /// Prefixes also count where a node is about to compute them for another request.
  bool pending = false;
  /// For the simulator: nodes of halfmoon do it in one way, whatever the policy.
  FirstToken first_token = FirstToken::kPrefill;
};

/// Every policy, the default first.
std::span<const Policy> Policies();
/// nullptr where there is none of that name.
const Policy* FindPolicy(std::string_view name);

std::string_view RejectPolicyName(RejectPolicy policy);
std::optional<RejectPolicy> FindRejectPolicy(std::string_view name);

}  // namespace halfmoon::cluster
