// SPDX-License-Identifier: Apache-2.0
// Who prefills: what each node would take, and whose turn it is.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cluster/conductor.h"

namespace halfmoon::cluster {
namespace {

// A request that will be late goes behind those that can still be in time, but not for ever: it is
// taken as if it had so many times its limit. With 20 times, ten minutes of overload have late ones
// in front again: at 2.5 times the rate of the conversation trace 78 % were within limits, not 93.
constexpr double kLateLimits = 100.0;
// A prompt must fit so many times behind all that wait for their turn in time, unless it is longer
// than all that. In a queue that stays long, one long prompt keeps many short ones out. Predictive
// rejection without PendingBlocks: 1, 2, 4 and 8 times gave 71.1, 72.4, 74.6 and 76.2 % within
// limits on the synthetic shape at 4 times its rate, 89.3, 89.9, 89.7 and 87.4 % on the
// conversation trace at 2.5 times.
constexpr double kLongInQueue = 4.0;
// A prompt that takes a second lets pass those that come up to so many seconds later, if they take
// much less: 1.5, 3 and 6 gave 80.8, 77.7 and 76.0 % within limits at twice the rate of the
// conversation trace (8 + 8 nodes, nothing refused), first come first served 2.1 %.
constexpr double kShortFirst = 1.5;
// Prompts beside sequences without a limit take at most as much of a step as decoding does.
constexpr double kNoLimitSteps = 2.0;

double CopyUs(int64_t bytes, double bytes_per_s) {
  return bytes_per_s <= 0.0 ? 0.0 : static_cast<double>(bytes) / bytes_per_s * 1e6;
}

/// The slower of two rates, of which 0 is none.
double SlowerRate(double a, double b) {
  if (a <= 0.0) return b;
  if (b <= 0.0) return a;
  return std::min(a, b);
}

}  // namespace

double Conductor::QueueUs(const Node& node, const QueueTurn& turn, TimeUs now) {
  return WaitOf(node, turn, 0.0, now).before_us;
}

// It takes `prefill_us`.
Conductor::Wait Conductor::WaitOf(const Node& node, const QueueTurn& turn, double prefill_us,
                                  TimeUs now) {
  Wait wait{.before_us = node.more_queue_us};
  double end_us = node.more_queue_us;
  for (const QueuedPrefill& queued : node.prefills) {
    if (queued.turn.priority > turn.priority) break;
    if (queued.done) continue;
    const double elapsed_us = queued.running ? static_cast<double>(now - queued.started_us) : 0.0;
    end_us += std::max(0.0, queued.prefill_us - elapsed_us);
    if (queued.turn <= turn) {
      wait.before_us = end_us;
    } else if (queued.due_us == 0) {
      break;  // late ones are behind all others of their priority
    } else {
      const auto due_us = static_cast<double>(queued.due_us - now);
      wait.delays = wait.delays || (end_us <= due_us && end_us + prefill_us > due_us);
    }
    wait.in_time_us = end_us;
  }
  return wait;
}

// Pieces arrive one after the other through the node's network; what it has on its SSD is read
// meanwhile.
double Conductor::FetchAllUs(const Context& context, NodeSlot slot, int32_t end_block) const {
  const Node& node = nodes_[slot];
  const PrefixRun& local = local_[slot];
  const int64_t block_bytes = int64_t{context.request.block_tokens} * node.info.kv_bytes_per_token;
  const double own_us = CopyUs(block_bytes * local.by_tier[static_cast<size_t>(Tier::kSsd)],
                               node.costs().ssd_bytes_per_s);
  double end_us = 0.0;
  for (const Source& source : context.sources) {
    const int32_t first = std::max(source.first_block, local.blocks());
    const int32_t end = std::min(source.end_block, end_block);
    if (first >= end) continue;
    const Node& from = nodes_[source.slot];
    double rate = SlowerRate(from.costs().network_bytes_per_s, node.costs().network_bytes_per_s);
    if (source.tier == Tier::kSsd) rate = SlowerRate(rate, from.costs().ssd_bytes_per_s);
    const TimeUs free_us = std::max(from.network_out_free_us, node.network_in_free_us);
    end_us = std::max(end_us, static_cast<double>(free_us - context.now_us)) +
             CopyUs(block_bytes * (end - first), rate);
  }
  return std::max(own_us, end_us);
}

// The last token is always computed: the first answer comes from it.
void Conductor::SetPrefix(const Context& context, int32_t blocks, double share,
                          Prefill* price) const {
  const PlacementRequest& request = context.request;
  price->prefix_tokens = static_cast<int32_t>(
      std::min(int64_t{request.prompt_tokens} - 1, int64_t{blocks} * request.block_tokens));
  price->prefill_us =
      PrefillUs(nodes_[price->slot].costs().prefill, request.prompt_tokens - price->prefix_tokens,
                price->prefix_tokens) /
      share;
}

Conductor::Prefill Conductor::Price(const Context& context, NodeSlot slot, int32_t prefix_blocks,
                                    double share) const {
  Prefill price{
      .slot = slot, .local_blocks = local_[slot].blocks(), .prefix_blocks = prefix_blocks};
  SetPrefix(context, prefix_blocks, share, &price);
  price.fetch_us = FetchAllUs(context, slot, prefix_blocks);
  Queue(context, INT64_MIN, &price);
  return price;
}

Conductor::Prefill Conductor::PricePending(const Context& context, NodeSlot slot,
                                           double share) const {
  const PendingBlocks::Run run = pending_.RunOf(slot);
  const bool behind_it = run.turn.priority == context.request.priority;
  const int32_t local = local_[slot].blocks();
  Prefill price{.slot = slot, .local_blocks = local, .prefix_blocks = local};
  SetPrefix(context, run.blocks, share, &price);
  price.fetch_us = FetchAllUs(context, slot, local);
  Queue(context, behind_it ? run.turn.order_us : INT64_MIN, &price);
  return price;
}

// QueueOrder::kSlack: in front of longer ones if that makes none of them late, else as late as its
// limit lets it start, else behind all. Never in front of `after_us`.
void Conductor::Queue(const Context& context, TimeUs after_us, Prefill* price) const {
  const Node& node = nodes_[price->slot];
  const auto limit_us = static_cast<double>(context.request.limits.ttft_us);
  const double due_us = TtftLimitUs(context);
  const auto put = [&](double later_us) {
    price->order_us = std::max(after_us, context.now_us + ToTimeUs(later_us));
    const Wait wait =
        WaitOf(node, {.priority = context.request.priority, .order_us = price->order_us},
               price->prefill_us, context.now_us);
    price->queue_us = wait.before_us;
    price->ttft_us = std::max(price->queue_us, price->fetch_us) + price->prefill_us;
    const bool long_one = wait.in_time_us > price->prefill_us &&
                          wait.in_time_us + kLongInQueue * price->prefill_us > due_us;
    return !wait.delays && !long_one && price->ttft_us <= due_us;
  };
  if (options_.policy.order == QueueOrder::kArrival || limit_us <= 0.0) {
    put(0.0);
    return;
  }
  const double slack_us = limit_us - price->prefill_us;
  if (put(std::min(kShortFirst * price->prefill_us, slack_us)) || put(slack_us)) return;
  put(kLateLimits * limit_us);
  price->late = true;
}

// FAST'25, algorithm 1, lines 8 to 19; without a threshold the two are compared by what they take.
Conductor::Prefill Conductor::PriceBest(const Context& context, NodeSlot slot, double share) const {
  const int32_t local = local_[slot].blocks();
  const int32_t best = context.sources.empty() ? 0 : context.sources.back().end_block;
  const bool fetches = options_.policy.prefix == PrefixUse::kGlobal && best > local;
  const double threshold = options_.policy.balancing_threshold;
  if (fetches && threshold > 0.0) {
    return Price(context, slot, best > threshold * local ? best : local, share);
  }
  Prefill price = Price(context, slot, local, share);
  const auto take_better = [&](const Prefill& other) {
    if (other.late != price.late ? price.late : other.ttft_us < price.ttft_us) price = other;
  };
  if (fetches) take_better(Price(context, slot, best, share));
  // What is only computed after it is of no use to it.
  const PendingBlocks::Run pending = pending_.RunOf(slot);
  if (options_.policy.pending && pending.blocks > local &&
      pending.turn.priority <= context.request.priority) {
    take_better(PricePending(context, slot, share));
  }
  return price;
}

std::optional<Conductor::Prefill> Conductor::ChoosePrefill(const Context& context) {
  std::optional<Prefill> best;
  double best_score = std::numeric_limits<double>::max();
  uint64_t equals = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const auto slot = static_cast<NodeSlot>(i);
    const Node& node = nodes_[i];
    if (!node.serving() || !Prefills(node.info.role)) continue;
    if (node.info.role == Role::kBoth &&
        !Fits(node, context.request.prompt_tokens + context.output_tokens, context.now_us)) {
      continue;
    }
    double score = 0.0;  // kRandom: all are equal
    std::optional<Prefill> price;
    if (options_.policy.prefill == PrefillChoice::kLeastLoad) {
      score = QueueUs(node, {.priority = context.request.priority, .order_us = context.now_us},
                      context.now_us);
    } else if (options_.policy.prefill == PrefillChoice::kLeastTtft) {
      price = PriceBest(context, slot, node.decodes.empty() ? 1.0 : node.info.prefill_share);
      score = price->ttft_us;
    }
    const bool late = price.has_value() && price->late;
    const bool best_late = best.has_value() && best->late;
    if (late > best_late && best.has_value()) continue;
    if (late == best_late && score > best_score) continue;
    // Of equal ones each is as likely: the n-th replaces the one so far with a chance of 1 / n.
    equals = late == best_late && score == best_score ? equals + 1 : 1;
    if (equals > 1 && Draw() % equals != 0) continue;
    best_score = score;
    best = price.has_value()
               ? *price
               : PriceBest(context, slot, node.decodes.empty() ? 1.0 : node.info.prefill_share);
  }
  return best;
}

// The prompt is computed in chunks that leave the steps of all sequences there within their limits,
// so it gets that part of the node's time which the limits leave.
std::optional<Conductor::Prefill> Conductor::PriceWhereItDecodes(const Context& context,
                                                                 const Chosen& decode) const {
  const Node& node = nodes_[decode.slot];
  if (LoadOf(node, context.now_us, Count::kPlaced).sequences == 0) {
    return PriceBest(context, decode.slot, 1.0);
  }
  double limit_us = static_cast<double>(context.request.limits.tbt_us);
  for (const RequestId request : node.decodes) {
    const auto other = static_cast<double>(requests_.at(request).tbt_limit_us);
    if (other > 0.0) limit_us = limit_us <= 0.0 ? other : std::min(limit_us, other);
  }
  limit_us = limit_us > 0.0 ? limit_us * options_.headroom : kNoLimitSteps * decode.tbt_us;
  const double chunk_us = limit_us - decode.tbt_us;
  if (chunk_us <= node.costs().prefill.fixed_us + node.costs().prefill.token_us)
    return std::nullopt;
  Prefill price = PriceBest(context, decode.slot, chunk_us / limit_us);
  price.chunk_us = ToTimeUs(chunk_us);
  return price;
}

}  // namespace halfmoon::cluster
