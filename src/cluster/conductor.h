// SPDX-License-Identifier: Apache-2.0
// cluster: nodes that compute together. The conductor decides which node prefills a request, which
// one decodes it, which blocks are copied before, and what is refused. It is a function of the
// events that it was told: no clock, no sockets, no threads, no randomness but of its seed, so that
// the server and the simulator run the same code.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cluster/cost_fit.h"
#include "cluster/node.h"
#include "cluster/pending_blocks.h"
#include "cluster/placement.h"
#include "cluster/policy.h"
#include "cluster/prefix_directory.h"

namespace halfmoon::cluster {

struct ConductorOptions {
  Policy policy = Policies().front();
  RejectPolicy reject = RejectPolicy::kPredictive;
  uint64_t seed = 0;  ///< of choices between equals
  /// Part of a limit that predictions may fill: they are of the moment at which a request joins,
  /// and batches and their KV grow after it.
  double headroom = 0.9;
  /// Whether what nodes measure changes their costs.
  bool fit_costs = true;
};

/// Events of nodes and requests that are not known (any more) are passed over: they come late, or
/// from nodes that were taken for dead. Times never go back: an earlier `now` counts as the latest.
/// Not thread-safe.
class Conductor {
 public:
  explicit Conductor(const ConductorOptions& options);

  // Nodes. At most 60,000 at once.

  /// A node that joins again under its name has lost its blocks and requests.
  void NodeJoined(NodeId node, const NodeInfo& info);
  /// Another role, health or capacity. Costs stay as fitted where the declared ones stay.
  void NodeUpdated(NodeId node, const NodeInfo& info);
  /// Returns the requests that it was prefilling, sending or decoding, which are forgotten: who
  /// sent them places them again.
  std::vector<RequestId> NodeLeft(NodeId node);
  void ReportLoad(NodeId node, const LoadReport& report, TimeUs now);
  void BlocksStored(NodeId node, Tier tier, std::span<const kv::BlockKey> keys);
  void BlocksRemoved(NodeId node, Tier tier, std::span<const kv::BlockKey> keys);

  // Requests, in the order of these functions.

  /// Requires prompt_tokens >= 1, and block_tokens >= 1 where there are keys. A request whose id is
  /// known is placed anew. Cost: a lookup for each key until no node has it, and some arithmetic
  /// for each node.
  Decision Place(const PlacementRequest& request, TimeUs now);
  void PrefillStarted(RequestId request, TimeUs now);
  /// measured_us: time that its computation alone took; 0: not measured.
  void PrefillEnded(RequestId request, double measured_us, TimeUs now);
  void DecodeJoined(RequestId request, TimeUs now);
  /// For any reason, at any point: done, cancelled, failed. output_tokens: 0 where that says
  /// nothing about others.
  void RequestEnded(RequestId request, int32_t output_tokens, TimeUs now);

  /// RejectPolicy::kLate only: whether the decode node is over its limit now that the request is
  /// computed.
  bool IsDecodeOverloaded(RequestId request, TimeUs now) const;

  size_t num_nodes() const { return slots_by_id_.size(); }
  size_t num_pending_blocks() const { return pending_.num_blocks(); }
  size_t num_requests() const { return requests_.size(); }
  const PrefixDirectory& directory() const { return directory_; }
  /// nullptr where the node is not known.
  const NodeCosts* CostsOf(NodeId node) const;

 private:
  enum class Stage : uint8_t { kPrefill, kComing, kDecoding };
  struct Tracked {
    NodeSlot prefill = 0;
    NodeSlot decode = 0;
    Stage stage = Stage::kPrefill;
    TimeUs ready_us = 0;    // end of prefill, predicted as long as it has not ended
    TimeUs started_us = 0;  // of decode
    int32_t prompt_tokens = 0;
    int32_t prefix_tokens = 0;
    int32_t output_tokens = 0;  // expected
    TimeUs tbt_limit_us = 0;
  };
  struct QueuedPrefill {
    RequestId request{};
    QueueTurn turn;
    double prefill_us = 0.0;
    TimeUs due_us = 0;  // must have ended; 0: late anyway, or without a limit
    bool running = false;
    bool done = false;  // but its KV is still on its way to who decodes
    TimeUs started_us = 0;
  };
  struct Node {
    NodeId id{};
    NodeInfo info;
    std::optional<CostFit> fit;           // none: the slot is free
    std::vector<QueuedPrefill> prefills;  // until they decode: those that started, then by turn
    std::vector<RequestId> decodes;       // coming or running
    // Sums over `decodes`, so that a load costs no walk.
    int32_t num_decoding = 0;        // that have joined
    int64_t prompt_tokens = 0;       // of all
    int64_t decoding_tokens = 0;     // prompts of those that have joined
    int64_t output_tokens = 0;       // still expected when they joined, of those that have
    TimeUs sum_started_us = 0;       // of those that have
    TimeUs network_out_free_us = 0;  // predicted
    TimeUs network_in_free_us = 0;
    // Beyond what is tracked, by the last report.
    int32_t more_decoding = 0;
    int64_t more_kv_tokens = 0;
    double more_queue_us = 0.0;

    bool serving() const { return fit.has_value() && info.health == Health::kServing; }
    const NodeCosts& costs() const { return fit->costs(); }
  };
  /// A node that might prefill, and what that is predicted to take.
  struct Prefill {
    NodeSlot slot = 0;
    double queue_us = 0.0;
    double fetch_us = 0.0;
    double prefill_us = 0.0;
    double ttft_us = 0.0;
    int32_t local_blocks = 0;
    int32_t prefix_blocks = 0;  // with those fetched
    int32_t prefix_tokens = 0;
    TimeUs order_us = 0;
    TimeUs chunk_us = 0;
    bool late = false;  // QueueOrder::kSlack: it is put behind all others
  };
  /// What a request finds in a queue, of its priority and those that go before it.
  struct Wait {
    double before_us = 0.0;   // of those that go before it
    double in_time_us = 0.0;  // of all but late ones
    bool delays = false;      // with it, one that goes after it is late that was not
  };
  struct DecodeLoad {
    int32_t sequences = 0;
    int64_t kv_tokens = 0;
  };
  /// Which sequences count: those that decode now, or also those placed but still to come.
  enum class Count : uint8_t { kDecoding, kPlaced };
  struct Chosen {
    NodeSlot slot = 0;
    double tbt_us = 0.0;
  };
  /// Leading blocks that some node has, in pieces that lie on one node each.
  struct Source {
    NodeSlot slot = 0;
    Tier tier = Tier::kPages;
    int32_t first_block = 0;
    int32_t end_block = 0;
  };
  struct Context {
    const PlacementRequest& request;
    TimeUs now_us = 0;
    int32_t output_tokens = 0;
    std::vector<Source> sources;
  };

  void FindPrefixes(Context* context);
  const Node* Find(NodeId node) const;
  Node* Find(NodeId node);
  NodeSlot TakeSlot();
  void FreeSweptSlots();
  TimeUs Advance(TimeUs now);
  uint64_t Draw();

  // conductor_prefill.cc: who prefills.
  /// What predictions of the TTFT may fill; 0: it has no limit.
  double TtftLimitUs(const Context& context) const {
    return static_cast<double>(context.request.limits.ttft_us) * options_.headroom;
  }
  static double QueueUs(const Node& node, const QueueTurn& turn, TimeUs now);
  static Wait WaitOf(const Node& node, const QueueTurn& turn, double prefill_us, TimeUs now);
  void Queue(const Context& context, TimeUs after_us, Prefill* price) const;
  /// Sets what a prompt takes with that prefix.
  void SetPrefix(const Context& context, int32_t blocks, double share, Prefill* price) const;
  /// Blocks [local, prefix_blocks) fetched; `share` of the node's time for prompts.
  Prefill Price(const Context& context, NodeSlot slot, int32_t prefix_blocks, double share) const;
  /// With the blocks that the node is about to have, and behind who brings them.
  Prefill PricePending(const Context& context, NodeSlot slot, double share) const;
  Prefill PriceBest(const Context& context, NodeSlot slot, double share) const;
  double FetchAllUs(const Context& context, NodeSlot slot, int32_t end_block) const;
  std::optional<Prefill> ChoosePrefill(const Context& context);
  std::optional<Prefill> PriceWhereItDecodes(const Context& context, const Chosen& decode) const;

  bool IsBetterThere(const Context& context, const Prefill& there, const Prefill& elsewhere,
                     const Chosen& decode) const;

  // conductor_decode.cc: who decodes, and what is refused.
  DecodeLoad LoadOf(const Node& node, TimeUs now, Count count) const;
  /// The load at a later time, with those that come and without those that go until then.
  DecodeLoad LoadAt(const Node& node, TimeUs now, TimeUs joins_until, TimeUs leaves_until) const;
  static double StepUs(const Node& node);
  double TbtUs(const Context& context, const Node& node, const DecodeLoad& load) const;
  bool Fits(const Node& node, int64_t tokens, TimeUs now) const;
  std::optional<Chosen> ChooseDecode(const Context& context);
  std::optional<Rejection> Refuse(const Context& context, const Prefill& prefill,
                                  const Chosen& decode) const;
  TimeUs DecodeRetryUs(const Node& node, TimeUs now) const;

  Placement Commit(const Context& context, const Prefill& prefill, const Chosen& decode);
  void Forget(RequestId request);
  void EndPrefill(RequestId request, const Tracked& tracked);

  const ConductorOptions options_;
  PrefixDirectory directory_;
  std::vector<Node> nodes_;  // by slot
  std::vector<NodeSlot> free_slots_;
  std::vector<NodeSlot> dropped_slots_;
  std::map<NodeId, NodeSlot> slots_by_id_;
  std::unordered_map<RequestId, Tracked> requests_;  // never iterated
  double mean_output_tokens_;
  double mean_ttft_us_ = 0.0;  // predicted, of those placed of late
  uint64_t random_;
  TimeUs now_ = 0;
  PendingBlocks pending_;
  std::vector<PrefixRun> local_;  // by slot, of the request being placed
};

}  // namespace halfmoon::cluster
