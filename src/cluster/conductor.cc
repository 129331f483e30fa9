// SPDX-License-Identifier: Apache-2.0
#include "cluster/conductor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace halfmoon::cluster {
namespace {

constexpr size_t kMaxNodes = 60000;
constexpr double kFirstOutputTokens = 256.0;  // until requests have ended
constexpr double kOutputKeep = 0.99;
constexpr double kTtftKeep = 0.95;
constexpr int kMaxSources = 4;  // pieces that a prefix is put together from

}  // namespace

std::string_view RejectReasonName(RejectReason reason) {
  switch (reason) {
    case RejectReason::kNoNode:
      return "no_node";
    case RejectReason::kTooLong:
      return "too_long";
    case RejectReason::kPrefillLoad:
      return "prefill_load";
    case RejectReason::kDecodeLoad:
      return "decode_load";
  }
  return "?";
}

Conductor::Conductor(const ConductorOptions& options)
    : options_(options), mean_output_tokens_(kFirstOutputTokens), random_(options.seed) {}

TimeUs Conductor::Advance(TimeUs now) { return now_ = std::max(now_, now); }

// SplitMix64.
uint64_t Conductor::Draw() {
  uint64_t z = random_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

const Conductor::Node* Conductor::Find(NodeId node) const {
  const auto found = slots_by_id_.find(node);
  return found == slots_by_id_.end() ? nullptr : &nodes_[found->second];
}

Conductor::Node* Conductor::Find(NodeId node) {
  return const_cast<Node*>(std::as_const(*this).Find(node));
}

const NodeCosts* Conductor::CostsOf(NodeId node) const {
  const Node* found = Find(node);
  return found == nullptr ? nullptr : &found->costs();
}

NodeSlot Conductor::TakeSlot() {
  FreeSweptSlots();
  if (!free_slots_.empty()) {
    const NodeSlot slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }
  nodes_.emplace_back();
  local_.emplace_back();
  return static_cast<NodeSlot>(nodes_.size() - 1);
}

void Conductor::FreeSweptSlots() {
  if (dropped_slots_.empty() || !directory_.swept()) return;
  free_slots_.insert(free_slots_.end(), dropped_slots_.begin(), dropped_slots_.end());
  dropped_slots_.clear();
}

void Conductor::NodeJoined(NodeId node, const NodeInfo& declared) {
  const NodeInfo info = Sanitized(declared);
  NodeLeft(node);
  // Slots of nodes that left are taken again once their blocks are swept out; should nodes come and
  // go faster than that, the sweep is waited for here.
  while (nodes_.size() >= kMaxNodes && free_slots_.empty() && !dropped_slots_.empty()) {
    directory_.Sweep();
    FreeSweptSlots();
  }
  HM_CHECK(nodes_.size() < kMaxNodes || !free_slots_.empty(),
           "more nodes than the directory names");
  const NodeSlot slot = TakeSlot();
  nodes_[slot] = Node{.id = node, .info = info, .fit = CostFit(info.costs)};
  slots_by_id_[node] = slot;
}

void Conductor::NodeUpdated(NodeId node, const NodeInfo& declared) {
  const NodeInfo info = Sanitized(declared);
  Node* found = Find(node);
  if (found == nullptr) return;
  const NodeCosts& old = found->info.costs;
  const NodeCosts& now = info.costs;
  const bool same = old.decode == now.decode && old.prefill.fixed_us == now.prefill.fixed_us &&
                    old.prefill.token_us == now.prefill.token_us &&
                    old.prefill.position_us == now.prefill.position_us &&
                    old.network_bytes_per_s == now.network_bytes_per_s &&
                    old.ssd_bytes_per_s == now.ssd_bytes_per_s;
  found->info = info;
  if (!same) found->fit = CostFit(info.costs);
}

std::vector<RequestId> Conductor::NodeLeft(NodeId node) {
  const auto found = slots_by_id_.find(node);
  if (found == slots_by_id_.end()) return {};
  const NodeSlot slot = found->second;
  std::vector<RequestId> lost;
  for (const QueuedPrefill& queued : nodes_[slot].prefills) lost.push_back(queued.request);
  for (const RequestId request : nodes_[slot].decodes) {
    if (std::ranges::find(lost, request) == lost.end()) lost.push_back(request);
  }
  for (const RequestId request : lost) Forget(request);
  nodes_[slot] = Node{};
  slots_by_id_.erase(found);
  directory_.DropNode(slot);
  dropped_slots_.push_back(slot);
  return lost;
}

void Conductor::ReportLoad(NodeId node, const LoadReport& declared, TimeUs now) {
  const LoadReport report = Sanitized(declared);
  Node* found = Find(node);
  if (found == nullptr) return;
  now = Advance(now);
  if (options_.fit_costs && report.step_us > 0.0) {
    found->fit->ObserveDecode(report.decoding, report.decoding_kv_tokens, report.step_us);
  }
  const DecodeLoad tracked = LoadOf(*found, now, Count::kDecoding);
  const int32_t known = tracked.sequences - found->more_decoding;
  const int64_t known_tokens = tracked.kv_tokens - found->more_kv_tokens;
  found->more_decoding = std::max(0, report.decoding - known);
  found->more_kv_tokens = found->more_decoding == 0
                              ? 0
                              : std::max<int64_t>(0, report.decoding_kv_tokens - known_tokens);
  int64_t prompts = report.waiting_prompt_tokens;
  for (const QueuedPrefill& queued : found->prefills) {
    if (queued.done) continue;
    const Tracked& tracked_request = requests_.at(queued.request);
    prompts -= tracked_request.prompt_tokens - tracked_request.prefix_tokens;
  }
  found->more_queue_us =
      prompts <= 0 ? 0.0 : found->costs().prefill.token_us * static_cast<double>(prompts);
}

void Conductor::BlocksStored(NodeId node, Tier tier, std::span<const kv::BlockKey> keys) {
  const auto found = slots_by_id_.find(node);
  if (found == slots_by_id_.end()) return;
  for (const kv::BlockKey& key : keys) directory_.Add(key, found->second, tier);
}

void Conductor::BlocksRemoved(NodeId node, Tier tier, std::span<const kv::BlockKey> keys) {
  const auto found = slots_by_id_.find(node);
  if (found == slots_by_id_.end()) return;
  for (const kv::BlockKey& key : keys) directory_.Remove(key, found->second, tier);
}

// The longest prefix of a single node first; others continue where it ends. Of nodes that have as
// much, the one whose network is free first.
void Conductor::FindPrefixes(Context* context) {
  for (PrefixRun& run : local_) run = {};
  std::span<const kv::BlockKey> rest = context->request.keys;
  int32_t first = 0;
  while (!rest.empty() && context->sources.size() < kMaxSources) {
    const std::span<const PrefixRun> runs = directory_.Find(rest);
    if (runs.empty()) return;
    const PrefixRun* best = nullptr;
    for (const PrefixRun& run : runs) {
      if (first == 0) local_[run.slot] = run;
      if (best == nullptr || run.blocks() > best->blocks() ||
          (run.blocks() == best->blocks() &&
           nodes_[run.slot].network_out_free_us < nodes_[best->slot].network_out_free_us)) {
        best = &run;
      }
    }
    const bool ssd = best->by_tier[static_cast<size_t>(Tier::kSsd)] > 0;
    const bool dram = best->by_tier[static_cast<size_t>(Tier::kDram)] > 0;
    context->sources.push_back({.slot = best->slot,
                                .tier = ssd    ? Tier::kSsd
                                        : dram ? Tier::kDram
                                               : Tier::kPages,
                                .first_block = first,
                                .end_block = first + best->blocks()});
    first += best->blocks();
    rest = rest.subspan(static_cast<size_t>(best->blocks()));
  }
}

// Its chunks lengthen the steps of everyone there, so it has to be worth it: where the prompt takes
// no longer than a step anyway, or would come too late elsewhere.
bool Conductor::IsBetterThere(const Context& context, const Prefill& there,
                              const Prefill& elsewhere, const Chosen& decode) const {
  if (there.late != elsewhere.late) return elsewhere.late;
  if (there.ttft_us > elsewhere.ttft_us) return false;
  const auto limit_us = static_cast<double>(context.request.limits.ttft_us) * options_.headroom;
  return elsewhere.prefill_us <= decode.tbt_us || (limit_us > 0.0 && elsewhere.ttft_us > limit_us);
}

Decision Conductor::Place(const PlacementRequest& request, TimeUs now) {
  HM_CHECK(request.prompt_tokens >= 1, "a request without a prompt");
  HM_CHECK(request.keys.empty() || request.block_tokens >= 1, "keys of blocks without a size");
  Forget(request.id);
  directory_.Sweep();
  FreeSweptSlots();
  Context context{.request = request,
                  .now_us = Advance(now),
                  .output_tokens = request.expected_output_tokens > 0
                                       ? request.expected_output_tokens
                                       : static_cast<int32_t>(mean_output_tokens_)};
  FindPrefixes(&context);
  if (options_.policy.pending) {
    pending_.Find(request.keys, local_,
                  context.sources.empty() ? 0 : context.sources.front().end_block);
  }
  std::optional<Prefill> prefill = ChoosePrefill(context);
  std::optional<Chosen> decode;
  if (prefill.has_value() && nodes_[prefill->slot].info.role == Role::kBoth) {
    const Node& node = nodes_[prefill->slot];
    decode = Chosen{.slot = prefill->slot,
                    .tbt_us = TbtUs(context, node, LoadOf(node, context.now_us, Count::kPlaced))};
  } else {
    decode = ChooseDecode(context);
  }
  if (decode.has_value() && (options_.policy.conditional || !prefill.has_value())) {
    const std::optional<Prefill> there = PriceWhereItDecodes(context, *decode);
    if (there.has_value() &&
        (!prefill.has_value() || IsBetterThere(context, *there, *prefill, *decode))) {
      prefill = there;
    }
    // With nobody else to read prompts, a busy node does so too.
    if (!prefill.has_value()) {
      prefill = PriceBest(context, decode->slot, nodes_[decode->slot].info.prefill_share);
    }
  }
  if (!prefill.has_value() || !decode.has_value()) {
    const bool too_long = std::ranges::any_of(
        nodes_, [](const Node& node) { return node.serving() && Decodes(node.info.role); });
    return Rejection{.reason = too_long ? RejectReason::kTooLong : RejectReason::kNoNode};
  }
  const std::optional<Rejection> refused = Refuse(context, *prefill, *decode);
  if (refused.has_value()) return *refused;
  return Commit(context, *prefill, *decode);
}

Placement Conductor::Commit(const Context& context, const Prefill& prefill, const Chosen& decode) {
  const PlacementRequest& request = context.request;
  Node& node = nodes_[prefill.slot];
  Placement placement{.prefill = node.id,
                      .decode = nodes_[decode.slot].id,
                      .local_blocks = prefill.local_blocks,
                      .chunk_us = prefill.chunk_us,
                      .order_us = prefill.order_us,
                      .ttft_us = ToTimeUs(prefill.ttft_us),
                      .tbt_us = ToTimeUs(decode.tbt_us),
                      .prefill_us = ToTimeUs(prefill.prefill_us),
                      .fetch_us = ToTimeUs(prefill.fetch_us),
                      .prefix_tokens = prefill.prefix_tokens};
  mean_ttft_us_ = mean_ttft_us_ <= 0.0
                      ? prefill.ttft_us
                      : kTtftKeep * mean_ttft_us_ + (1.0 - kTtftKeep) * prefill.ttft_us;
  for (const Source& source : context.sources) {
    const int32_t first = std::max(source.first_block, prefill.local_blocks);
    const int32_t end = std::min(source.end_block, prefill.prefix_blocks);
    if (first >= end) continue;
    placement.fetches.push_back({.source = nodes_[source.slot].id,
                                 .tier = source.tier,
                                 .first_block = first,
                                 .num_blocks = end - first});
    const TimeUs free_us = context.now_us + placement.fetch_us;
    TimeUs& out = nodes_[source.slot].network_out_free_us;
    out = std::max(out, free_us);
    node.network_in_free_us = std::max(node.network_in_free_us, free_us);
  }
  requests_[request.id] = {.prefill = prefill.slot,
                           .decode = decode.slot,
                           .ready_us = context.now_us + placement.ttft_us,
                           .prompt_tokens = request.prompt_tokens,
                           .prefix_tokens = prefill.prefix_tokens,
                           .output_tokens = context.output_tokens,
                           .tbt_limit_us = request.limits.tbt_us};
  const QueueTurn turn = {.priority = request.priority, .order_us = prefill.order_us};
  if (options_.policy.pending && !prefill.late) {
    pending_.Add(request.id, prefill.slot, turn,
                 request.keys.subspan(static_cast<size_t>(prefill.local_blocks)));
  }
  const TimeUs due_us = prefill.late || request.limits.ttft_us <= 0
                            ? 0
                            : context.now_us + ToTimeUs(TtftLimitUs(context));
  node.prefills.insert(
      std::ranges::upper_bound(node.prefills, turn, {}, &QueuedPrefill::turn),
      {.request = request.id, .turn = turn, .prefill_us = prefill.prefill_us, .due_us = due_us});
  nodes_[decode.slot].decodes.push_back(request.id);
  nodes_[decode.slot].prompt_tokens += request.prompt_tokens;
  return placement;
}

void Conductor::PrefillStarted(RequestId request, TimeUs now) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  std::vector<QueuedPrefill>& queue = nodes_[found->second.prefill].prefills;
  const auto queued = std::ranges::find(queue, request, &QueuedPrefill::request);
  if (queued == queue.end() || queued->running) return;
  queued->running = true;
  queued->started_us = Advance(now);
  queued->turn = kFirstTurn;
  pending_.Start(request);
  std::rotate(queue.begin(), queued, queued + 1);
}

void Conductor::EndPrefill(RequestId request, const Tracked& tracked) {
  std::erase_if(nodes_[tracked.prefill].prefills,
                [&](const QueuedPrefill& queued) { return queued.request == request; });
}

void Conductor::PrefillEnded(RequestId request, double measured_us, TimeUs now) {
  const auto found = requests_.find(request);
  if (found == requests_.end() || found->second.stage != Stage::kPrefill) return;
  Tracked& tracked = found->second;
  for (QueuedPrefill& queued : nodes_[tracked.prefill].prefills) {
    if (queued.request == request) queued.done = true;
  }
  pending_.Drop(request);
  tracked.stage = Stage::kComing;
  tracked.ready_us = Advance(now);
  if (options_.fit_costs) {
    nodes_[tracked.prefill].fit->ObservePrefill(tracked.prompt_tokens - tracked.prefix_tokens,
                                                tracked.prefix_tokens, measured_us);
  }
}

void Conductor::DecodeJoined(RequestId request, TimeUs now) {
  const auto found = requests_.find(request);
  if (found == requests_.end() || found->second.stage == Stage::kDecoding) return;
  Tracked& tracked = found->second;
  pending_.Drop(request);
  EndPrefill(request, tracked);  // whether or not that was told
  tracked.stage = Stage::kDecoding;
  tracked.started_us = Advance(now);
  Node& node = nodes_[tracked.decode];
  ++node.num_decoding;
  node.decoding_tokens += tracked.prompt_tokens;
  node.output_tokens += tracked.output_tokens;
  node.sum_started_us += tracked.started_us;
}

void Conductor::RequestEnded(RequestId request, int32_t output_tokens, TimeUs now) {
  Advance(now);
  if (!requests_.contains(request)) return;
  if (output_tokens > 0) {
    mean_output_tokens_ = kOutputKeep * mean_output_tokens_ + (1.0 - kOutputKeep) * output_tokens;
  }
  Forget(request);
}

void Conductor::Forget(RequestId request) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  const Tracked& tracked = found->second;
  pending_.Drop(request);
  EndPrefill(request, tracked);
  Node& node = nodes_[tracked.decode];
  std::erase(node.decodes, request);
  node.prompt_tokens -= tracked.prompt_tokens;
  if (tracked.stage == Stage::kDecoding) {
    --node.num_decoding;
    node.decoding_tokens -= tracked.prompt_tokens;
    node.output_tokens -= tracked.output_tokens;
    node.sum_started_us -= tracked.started_us;
  }
  requests_.erase(found);
}

}  // namespace halfmoon::cluster
