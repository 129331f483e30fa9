// SPDX-License-Identifier: Apache-2.0
#include "sim/simulator.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <variant>

#include "base/check.h"

namespace halfmoon::sim {
namespace {

constexpr TimeUs kCopySpreadUs = 3'000'000;  // the resolution of published traces
constexpr int kLoadSamples = 300;
constexpr int64_t kMaxBlocks = 1 << 30;  // of a tier

TimeUs CopyUs(int64_t bytes, double bytes_per_s) {
  return bytes_per_s <= 0.0
             ? 0
             : static_cast<TimeUs>(static_cast<double>(bytes) / bytes_per_s * 1e6 + 0.5);
}

CostModel WithNetwork(CostModel model, double nic_bytes_per_s) {
  if (nic_bytes_per_s > 0.0) model.costs.network_bytes_per_s = nic_bytes_per_s;
  return model;
}

cluster::Policy PolicyOf(const SimOptions& options) {
  cluster::Policy policy = options.policy;
  policy.balancing_threshold = options.balancing_threshold.value_or(policy.balancing_threshold);
  policy.first_token = options.first_token.value_or(policy.first_token);
  return policy;
}

}  // namespace

Simulator::Simulator(const SimOptions& options, const CostModel& model, const Trace& trace)
    : options_(options),
      first_token_(PolicyOf(options).first_token),
      model_(WithNetwork(model, options.nic_bytes_per_s)),
      trace_(trace),
      conductor_({.policy = PolicyOf(options),
                  .reject = options.reject,
                  .seed = options.seed,
                  .headroom = options.headroom}) {
  HM_CHECK(options.rate > 0.0, "a rate of 0");
  HM_CHECK(options.copies >= 1, "no copy of the trace");
  const auto add = [&](int32_t count, cluster::Role role, bool keeps) {
    for (int32_t i = 0; i < count; ++i) {
      Node node;
      node.id = cluster::NodeId{static_cast<uint32_t>(nodes_.size())};
      node.role = role;
      const auto blocks = [&](int64_t tokens) {
        return keeps ? static_cast<int32_t>(std::min(tokens / trace.block_tokens, kMaxBlocks)) : 0;
      };
      node.cache = std::make_unique<NodeBlocks>(
          NodeBlocks::Options{.dram_blocks = blocks(options.dram_tokens),
                              .ssd_blocks = blocks(options.ssd_tokens),
                              .catalog = {},
                              .lose_slot = options.bug == Bug::kLoseSlot});
      node.steps = MakeSteps(node);
      conductor_.NodeJoined(node.id, InfoOf(node));
      nodes_.push_back(std::move(node));
    }
  };
  add(options.prefill_nodes, cluster::Role::kPrefill, true);
  add(options.decode_nodes, cluster::Role::kDecode, true);
  add(options.coupled_nodes, cluster::Role::kBoth, options.coupled_cache);
}

Simulator::~Simulator() = default;

cluster::NodeInfo Simulator::InfoOf(const Node& node) const {
  return {.role = node.role,
          .kv_tokens = model_.kv_tokens,
          .kv_bytes_per_token = model_.kv_bytes_per_token,
          .max_running = model_.max_running,
          .costs = model_.costs};
}

double Simulator::RateOf(double a, double b) const {
  if (a <= 0.0) return b;
  return b <= 0.0 ? a : std::min(a, b);
}

void Simulator::MakeArrivals() {
  uint64_t draw = Mix(options_.seed);
  const auto below = [&](TimeUs bound) {
    draw = Mix(draw);
    return bound <= 0 ? 0 : static_cast<TimeUs>(draw % static_cast<uint64_t>(bound));
  };
  for (int32_t copy = 0; copy < options_.copies; ++copy) {
    const TimeUs shift_us = copy == 0 ? 0 : below(kCopySpreadUs);
    for (size_t i = 0; i < trace_.requests.size(); ++i) {
      const TimeUs at_us = trace_.requests[i].arrival_us + shift_us + below(options_.jitter_us);
      arrivals_.push_back({.at_us = static_cast<TimeUs>(static_cast<double>(at_us) / options_.rate),
                           .request = static_cast<uint32_t>(i),
                           .copy = copy});
    }
  }
  // In the order of the trace where times are equal.
  std::ranges::sort(arrivals_, {}, [](const Arrival& arrival) {
    return std::tuple(arrival.at_us, arrival.copy, arrival.request);
  });
  flights_.resize(arrivals_.size());
}

void Simulator::Push(TimeUs at_us, EventKind kind, uint32_t index, uint32_t epoch) {
  events_.push({.at_us = at_us, .order = order_++, .kind = kind, .epoch = epoch, .index = index});
}

SimResult Simulator::Run() {
  MakeArrivals();
  sample_us_ =
      std::max<TimeUs>(1, (arrivals_.back().at_us - arrivals_.front().at_us) / kLoadSamples);
  next_sample_us_ = arrivals_.front().at_us;
  delay_draw_ = Mix(~options_.seed);
  for (size_t i = 0; i < options_.faults.size(); ++i) {
    const Fault& fault = options_.faults[i];
    Push(fault.at_us, EventKind::kFail, static_cast<uint32_t>(i), 0);
    Push(fault.back_us, EventKind::kReturn, static_cast<uint32_t>(fault.node), 0);
  }
  size_t next = 0;
  while (next < arrivals_.size() || !events_.empty()) {
    // What ends at the moment of an arrival has ended.
    if (!events_.empty() &&
        (next == arrivals_.size() || events_.top().at_us <= arrivals_[next].at_us)) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at_us;
      Handle(event);
    } else {
      now_ = arrivals_[next].at_us;
      Arrive(arrivals_[next]);
      Place(static_cast<uint32_t>(next));
      ++next;
    }
    if (now_ >= next_sample_us_) Sample();
  }
  CheckEnd();
  result_.end_us = now_;
  result_.requests.reserve(flights_.size());
  for (const Flight& flight : flights_) result_.requests.push_back(flight.record);
  return std::move(result_);
}

void Simulator::Sample() {
  sample_.at_us = now_;
  sample_.waiting_prompts = 0;
  sample_.decoding = 0;
  for (const Node& node : nodes_) {
    sample_.waiting_prompts += static_cast<int32_t>(node.prompts.size());
    sample_.decoding += node.steps != nullptr ? node.steps->num_decoding()
                                              : static_cast<int32_t>(node.running.size());
  }
  result_.load.push_back(sample_);
  sample_ = {};
  while (next_sample_us_ <= now_) next_sample_us_ += sample_us_;
}

void Simulator::Handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kFetched:
      if (flights_[event.index].epoch == event.epoch) Fetched(event.index);
      return;
    case EventKind::kStreamed:
      if (flights_[event.index].epoch == event.epoch) Streamed(event.index);
      return;
    case EventKind::kStepEnd:
      if (nodes_[event.index].epoch == event.epoch) EndStep(static_cast<int32_t>(event.index));
      return;
    case EventKind::kMessage: {
      Node& node = nodes_[event.index];
      if (node.connection != event.epoch) return;
      const Message message = std::move(node.outbox.front());
      node.outbox.pop_front();
      Deliver(node, message);
      return;
    }
    case EventKind::kFail:
      Fail(options_.faults[event.index]);
      return;
    case EventKind::kNotice:
      if (nodes_[event.index].epoch == event.epoch) Notice(static_cast<int32_t>(event.index));
      return;
    case EventKind::kReturn:
      Return(static_cast<int32_t>(event.index));
      return;
  }
}

void Simulator::Arrive(const Arrival& arrival) {
  Flight& flight = flights_[static_cast<size_t>(&arrival - arrivals_.data())];
  flight.row = &trace_.requests[arrival.request];
  flight.salt = Mix(static_cast<uint64_t>(arrival.copy));
  flight.record = {.arrival_us = now_,
                   .prompt_tokens = flight.row->prompt_tokens,
                   .output_tokens = flight.row->output_tokens};
}

void Simulator::MakeKeys(Flight* flight) const {
  flight->keys.clear();
  for (int32_t i = 0; i < flight->row->num_blocks; ++i) {
    const uint64_t id = trace_.blocks[flight->row->first_block + static_cast<uint64_t>(i)];
    const uint64_t low = Mix(id ^ flight->salt);
    flight->keys.push_back({{.high = id, .low = low}});
  }
}

// For the first time, or again with what it has made when a node has failed.
void Simulator::Place(uint32_t index) {
  Flight& flight = flights_[index];
  MakeKeys(&flight);
  flight.stage = Flight::Stage::kPrefill;
  flight.prompt_tokens = flight.row->prompt_tokens + flight.made_tokens;
  flight.computed_tokens = 0;
  flight.prefill_us = 0.0;
  flight.fetched = false;
  const int32_t left = flight.row->output_tokens - flight.made_tokens;
  if (options_.detailed && !FitsPages(flight)) {
    flight.record.reason = cluster::RejectReason::kTooLong;
    EndFlight(index, Outcome::kRejected);
    return;
  }
  const cluster::Decision decision =
      conductor_.Place({.id = cluster::RequestId{index},
                        .prompt_tokens = flight.prompt_tokens,
                        .keys = flight.keys,
                        .block_tokens = trace_.block_tokens,
                        .expected_output_tokens = options_.output_known ? left : 0,
                        .limits = options_.limits},
                       now_);
  if (const auto* refused = std::get_if<cluster::Rejection>(&decision)) {
    flight.record.reason = refused->reason;
    flight.record.retry_after_us = refused->retry_after_us;
    EndFlight(index, Outcome::kRejected);
    return;
  }
  flight.placement = std::get<cluster::Placement>(decision);
  flight.prefill_node = static_cast<int32_t>(ToNumber(flight.placement.prefill));
  flight.decode_node = static_cast<int32_t>(ToNumber(flight.placement.decode));
  StartFetches(index);
}

// Pieces come one after the other; a network card and an SSD do one thing at a time, in the order
// in which it was asked for.
void Simulator::StartFetches(uint32_t index) {
  Flight& flight = flights_[index];
  Node& node = nodes_[static_cast<size_t>(flight.prefill_node)];
  const std::span<const kv::BlockKey> keys(flight.keys);
  const int64_t block_bytes = model_.kv_bytes_per_token * trace_.block_tokens;
  const auto local = static_cast<size_t>(flight.placement.local_blocks);
  std::array<int32_t, cluster::kNumTiers> own{};
  // What it counts on is there, unless it hears of things late.
  const bool hears_late = options_.report_delay_us > 0;
  flight.usable_blocks = 0;
  for (const kv::BlockKey& key : keys.first(local)) {
    const std::optional<cluster::Tier> tier = node.cache->TierOf(key);
    Require(tier.has_value() || hears_late,
            "the conductor counts on a block that its node does not have");
    if (!tier.has_value()) break;
    ++own[static_cast<size_t>(*tier)];
    ++flight.usable_blocks;
  }
  TimeUs ready_us = now_;
  if (const int32_t on_ssd = own[static_cast<size_t>(cluster::Tier::kSsd)]; on_ssd > 0) {
    node.ssd_free_us = std::max(node.ssd_free_us, now_) +
                       CopyUs(block_bytes * on_ssd, model_.costs.ssd_bytes_per_s);
    ready_us = node.ssd_free_us;
  }
  flight.source_epochs.clear();
  TimeUs piece_us = now_;
  for (const cluster::PrefixFetch& fetch : flight.placement.fetches) {
    Node& source = nodes_[ToNumber(fetch.source)];
    Require(source.up || !source.noticed, "a fetch from a node that has left");
    flight.source_epochs.push_back(source.epoch);
    if (!source.up || flight.usable_blocks < fetch.first_block) break;
    const auto wanted =
        keys.subspan(static_cast<size_t>(fetch.first_block), static_cast<size_t>(fetch.num_blocks));
    const int32_t there = source.cache->FindPrefix(wanted, now_);
    Require(there == fetch.num_blocks || hears_late,
            "the conductor counts on a block that another node does not have");
    flight.usable_blocks = fetch.first_block + there;
    const int64_t bytes = block_bytes * there;
    double rate = model_.costs.network_bytes_per_s;
    if (fetch.tier == cluster::Tier::kSsd) rate = RateOf(rate, model_.costs.ssd_bytes_per_s);
    const TimeUs start_us = std::max({piece_us, source.out_free_us, node.in_free_us});
    piece_us = start_us + CopyUs(bytes, rate);
    source.out_free_us = node.in_free_us = piece_us;
    Keep(&source, wanted.first(static_cast<size_t>(there)));
    result_.fetched_bytes += bytes;
    ++result_.num_fetches;
  }
  flight.prefix_tokens = PrefixTokens(flight, flight.usable_blocks);
  int32_t left = flight.prefix_tokens;
  for (size_t tier = 0; tier < own.size(); ++tier) {
    flight.record.own_tokens[tier] = std::min(left, own[tier] * trace_.block_tokens);
    left -= flight.record.own_tokens[tier];
  }
  flight.record.fetched_tokens = left;
  node.prompts.push_back(index);
  ready_us = std::max(ready_us, piece_us);
  if (ready_us > now_) {
    Keep(&node, keys.first(std::min(local, static_cast<size_t>(flight.usable_blocks))));
    Push(ready_us, EventKind::kFetched, index, flight.epoch);
  } else {
    Fetched(index);
  }
}

void Simulator::Fetched(uint32_t index) {
  Flight& flight = flights_[index];
  int32_t blocks = std::min(flight.usable_blocks, flight.placement.local_blocks);
  for (size_t i = 0; i < flight.source_epochs.size(); ++i) {
    const cluster::PrefixFetch& fetch = flight.placement.fetches[i];
    // A source that failed in between: what comes after is computed.
    if (nodes_[ToNumber(fetch.source)].epoch != flight.source_epochs[i]) break;
    blocks = std::max(blocks, std::min(flight.usable_blocks, fetch.first_block + fetch.num_blocks));
  }
  flight.prefix_tokens = PrefixTokens(flight, blocks);
  Keep(&nodes_[static_cast<size_t>(flight.prefill_node)],
       std::span(flight.keys).first(static_cast<size_t>(blocks)));
  flight.computed_tokens = flight.prefix_tokens;
  flight.fetched = true;
  StartStep(flight.prefill_node);
}

void Simulator::Keep(Node* node, std::span<const kv::BlockKey> keys) {
  std::vector<BlockChange> changes;
  node->cache->Use(keys, now_, &changes);
  TellOfBlocks(node, std::move(changes));
}

void Simulator::EndFlight(uint32_t index, Outcome outcome) {
  Flight& flight = flights_[index];
  Require(flight.record.outcome == Outcome::kLive, "a request ended twice");
  flight.record.outcome = outcome;
  flight.stage = Flight::Stage::kEnded;
  ++flight.epoch;
  flight.keys = {};
  flight.gaps = {};
  if (outcome != Outcome::kDone) ++sample_.rejected;
  conductor_.RequestEnded(cluster::RequestId{index},
                          outcome == Outcome::kDone ? flight.row->output_tokens : 0, now_);
}

}  // namespace halfmoon::sim
