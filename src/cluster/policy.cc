// SPDX-License-Identifier: Apache-2.0
#include "cluster/policy.h"

#include <array>

namespace halfmoon::cluster {
namespace {

constexpr std::array<Policy, 5> kPolicies{{
    {.name = "slack",
     .summary =
         "least predicted TTFT over all prefixes, those being computed too; short prompts first as "
         "far as limits allow, no long ones into long queues; late or very short ones where they "
         "decode",
     .order = QueueOrder::kSlack,
     .conditional = true,
     .pending = true,
     .first_token = FirstToken::kDecode},
    {.name = "global",
     .summary = "FAST'25 algorithm 1: least predicted TTFT, prefixes fetched from other nodes",
     .balancing_threshold = 1.3},
    {.name = "local",
     .summary = "least predicted TTFT with what each node has itself",
     .prefix = PrefixUse::kLocal},
    {.name = "load",
     .summary = "shortest queue; prefixes count where they happen to be",
     .prefill = PrefillChoice::kLeastLoad,
     .prefix = PrefixUse::kLocal},
    {.name = "random",
     .summary = "any node; prefixes count where they happen to be",
     .prefill = PrefillChoice::kRandom,
     .prefix = PrefixUse::kLocal},
}};

}  // namespace

std::span<const Policy> Policies() { return kPolicies; }

const Policy* FindPolicy(std::string_view name) {
  for (const Policy& policy : kPolicies) {
    if (policy.name == name) return &policy;
  }
  return nullptr;
}

std::string_view RejectPolicyName(RejectPolicy policy) {
  switch (policy) {
    case RejectPolicy::kNone:
      return "none";
    case RejectPolicy::kLate:
      return "late";
    case RejectPolicy::kEarly:
      return "early";
    case RejectPolicy::kPredictive:
      return "predictive";
  }
  return "?";
}

std::optional<RejectPolicy> FindRejectPolicy(std::string_view name) {
  for (const RejectPolicy policy : {RejectPolicy::kNone, RejectPolicy::kLate, RejectPolicy::kEarly,
                                    RejectPolicy::kPredictive}) {
    if (RejectPolicyName(policy) == name) return policy;
  }
  return std::nullopt;
}

}  // namespace halfmoon::cluster
