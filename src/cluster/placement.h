// SPDX-License-Identifier: Apache-2.0
// What the conductor is asked, and what it answers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "cluster/node.h"
#include "kv/block_key.h"

namespace halfmoon::cluster {

enum class RequestId : uint64_t {};

/// What the class of a request promises its client; 0: nothing.
struct ServiceLimits {
  TimeUs ttft_us = 0;  ///< time to the first token
  TimeUs tbt_us = 0;   ///< time between tokens
};

/// Whose turn it is in a node's queue: smaller ones first.
struct QueueTurn {
  int64_t priority = 0;
  TimeUs order_us = 0;
  auto operator<=>(const QueueTurn&) const = default;
};
/// Of what nobody can be in front of.
inline constexpr QueueTurn kFirstTurn = {.priority = INT64_MIN, .order_us = INT64_MIN};

/// A request as it arrives.
struct PlacementRequest {
  RequestId id{};
  int32_t prompt_tokens = 0;           ///< at least 1
  std::span<const kv::BlockKey> keys;  ///< of the prompt's blocks, in order
  int32_t block_tokens = 0;            ///< tokens of a block; above 0 where there are keys
  int32_t expected_output_tokens = 0;  ///< 0: as many as others had of late
  int64_t priority = 0;                ///< smaller ones go first in a node's queue
  ServiceLimits limits;
};

/// Leading blocks of the prompt that are copied to the node that prefills, where they stay: this is
/// how blocks that many ask for come to lie on many nodes.
struct PrefixFetch {
  NodeId source{};
  Tier tier = Tier::kPages;  ///< slowest that one of them lies in
  int32_t first_block = 0;
  int32_t num_blocks = 0;
};

/// Where a request is computed. What it predicts is what the decision was made on.
struct Placement {
  NodeId prefill{};
  NodeId decode{};           ///< equal to prefill: computed where it decodes, nothing is streamed
  int32_t local_blocks = 0;  ///< leading blocks that the prefill node has itself
  std::vector<PrefixFetch> fetches;  ///< the blocks after those; may run while the request waits
  /// Most time that chunks of the prompt may add to a step in which others decode; 0: the node's
  /// own rule.
  TimeUs chunk_us = 0;
  /// Order in the prefill node's queue among those of its priority: least first, equal ones as they
  /// came.
  TimeUs order_us = 0;
  TimeUs ttft_us = 0;         ///< predicted, from now on
  TimeUs tbt_us = 0;          ///< predicted, of the decode node's steps with it
  TimeUs prefill_us = 0;      ///< predicted, of the computation alone
  TimeUs fetch_us = 0;        ///< predicted, until the blocks are there
  int32_t prefix_tokens = 0;  ///< that are not computed again
};

enum class RejectReason : uint8_t {
  kNoNode,       ///< no node may prefill, or none may decode: 503
  kTooLong,      ///< no decode node could ever hold it: 400
  kPrefillLoad,  ///< its first token would come too late: 429
  kDecodeLoad,   ///< its tokens, or those of others, would come too slowly: 429
};

std::string_view RejectReasonName(RejectReason reason);

struct Rejection {
  RejectReason reason{};
  TimeUs retry_after_us = 0;  ///< when the load that was in the way is predicted to be gone
  TimeUs predicted_us = 0;    ///< TTFT or TBT that broke the limit; 0 for the other reasons
};

using Decision = std::variant<Placement, Rejection>;

}  // namespace halfmoon::cluster
