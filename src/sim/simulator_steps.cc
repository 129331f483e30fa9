// SPDX-License-Identifier: Apache-2.0
// What nodes compute, step by step.
#include <algorithm>
#include <utility>

#include "sim/simulator.h"

namespace halfmoon::sim {
namespace {

constexpr TimeUs kReportUs = 1'000'000;
// A prompt where others decode: chunks of at most so much, or as much as the limit leaves; at least
// so much, or it would never end.
constexpr double kChunkUs = 50'000.0;
constexpr double kLeastChunkUs = 5'000.0;
constexpr double kLimitShare = 0.95;

}  // namespace

bool Simulator::HasRoom(const Node& node, const Flight& flight) const {
  if (flight.reserved_tokens > 0 || node.steps != nullptr) return true;
  const int64_t tokens = flight.prompt_tokens + flight.row->output_tokens - flight.made_tokens;
  return static_cast<int32_t>(node.running.size()) < model_.max_running &&
         (node.kv_reserved == 0 || node.kv_reserved + tokens <= model_.kv_tokens);
}

void Simulator::Reserve(Node* node, Flight* flight) {
  if (flight->reserved_tokens > 0 || node->steps != nullptr) return;
  flight->reserved_tokens =
      flight->prompt_tokens + flight->row->output_tokens - flight->made_tokens;
  node->kv_reserved += flight->reserved_tokens;
}

// The first by order of those whose blocks are there; -1: none.
int64_t Simulator::PickPrompt(const Node& node) const {
  int64_t best = -1;
  for (const uint32_t index : node.prompts) {
    const Flight& flight = flights_[index];
    if (!flight.fetched) continue;
    if (flight.prefill_node == flight.decode_node && !HasRoom(node, flight)) continue;
    if (best < 0 ||
        flight.placement.order_us < flights_[static_cast<size_t>(best)].placement.order_us) {
      best = index;
    }
  }
  return best;
}

int32_t Simulator::ChunkOf(const Node& node, const Flight& flight, bool decoding) const {
  const int32_t left = flight.prompt_tokens - flight.computed_tokens;
  if (node.role == cluster::Role::kPrefill) return left;
  if (node.role == cluster::Role::kBoth) {
    if (!decoding || options_.coupled_chunk_tokens == 0) return left;
    return std::clamp(options_.coupled_chunk_tokens - static_cast<int32_t>(node.running.size()), 1,
                      left);
  }
  double us = kChunkUs;
  const auto limit = static_cast<double>(options_.limits.tbt_us);
  if (flight.placement.chunk_us > 0) {
    us = static_cast<double>(flight.placement.chunk_us);
  } else if (limit > 0.0) {
    us = kLimitShare * limit - node.decode_us;
  }
  us = std::max(us, kLeastChunkUs) - model_.costs.prefill.fixed_us;
  return std::clamp(model_.costs.prefill.TokensWithin(us, flight.computed_tokens), 1, left);
}

void Simulator::StartStep(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (node.busy || !node.up) return;
  if (node.steps != nullptr) {
    StartDetailedStep(index);
    return;
  }
  Admit(&node);
  if (node.current < 0) {
    node.current = PickPrompt(node);
    if (node.current >= 0) {
      StartPrompt(&node, static_cast<uint32_t>(node.current));
    }
  }
  const bool decoding = !node.running.empty();
  if (node.current < 0 && !decoding) return;
  node.decode_us =
      model_.costs.decode.Us(static_cast<int32_t>(node.running.size()), node.kv_tokens);
  node.chunk_tokens = 0;
  node.decodes = decoding;
  double us = 0.0;
  if (node.current >= 0) {
    Flight& flight = flights_[static_cast<size_t>(node.current)];
    node.chunk_tokens = ChunkOf(node, flight, decoding);
    const double prefill_us =
        cluster::PrefillUs(model_.costs.prefill, node.chunk_tokens, flight.computed_tokens);
    flight.prefill_us += prefill_us;
    us += prefill_us;
    if (node.role == cluster::Role::kBoth && options_.coupled_chunk_tokens == 0) {
      node.decodes = false;
    }
  }
  if (node.decodes) us += node.decode_us;
  node.busy = true;
  Push(now_ + std::max<TimeUs>(1, static_cast<TimeUs>(us + 0.5)), EventKind::kStepEnd,
       static_cast<uint32_t>(index), node.epoch);
}

// What has come to the node since the request was placed is found too.
void Simulator::StartPrompt(Node* node, uint32_t index) {
  Flight& flight = flights_[index];
  std::erase(node->prompts, index);
  const int32_t tokens = PrefixTokens(flight, node->cache->FindPrefix(flight.keys, now_));
  if (tokens > flight.prefix_tokens) {
    flight.record.own_tokens[static_cast<size_t>(cluster::Tier::kDram)] +=
        tokens - flight.prefix_tokens;
    flight.prefix_tokens = flight.computed_tokens = tokens;
  }
  flight.prefill_start_us = now_;
  if (flight.prefill_node == flight.decode_node) Reserve(node, &flight);
  TellOfRequest(node, Message::Kind::kPrefillStarted, index);
}

void Simulator::EndStep(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (node.steps != nullptr) {
    EndDetailedStep(index);
    if (now_ >= node.next_report_us) Report(&node);
    StartStep(index);
    return;
  }
  node.busy = false;
  if (node.decodes) {
    const size_t step = node.step_ends.size();
    node.step_ends.push_back(now_);
    node.kv_tokens += static_cast<int64_t>(node.running.size());
    while (!node.running.empty() && node.running.top().last_step == step) {
      const uint32_t request = node.running.top().request;
      node.running.pop();
      EndDecode(&node, request);
    }
  }
  if (node.current >= 0) {
    const auto request = static_cast<uint32_t>(node.current);
    Flight& flight = flights_[request];
    flight.computed_tokens += node.chunk_tokens;
    if (flight.computed_tokens == flight.prompt_tokens) {
      node.current = -1;
      EndPrompt(index, request);
    }
  }
  if (now_ >= node.next_report_us) Report(&node);
  StartStep(index);
}

void Simulator::Report(Node* node) {
  node->next_report_us = now_ + kReportUs;
  int64_t waiting = 0;
  for (const uint32_t request : node->prompts) {
    waiting += flights_[request].prompt_tokens - flights_[request].prefix_tokens;
  }
  conductor_.ReportLoad(
      node->id,
      {.decoding = node->steps != nullptr ? node->steps->num_decoding()
                                          : static_cast<int32_t>(node->running.size()),
       .decoding_kv_tokens =
           node->steps != nullptr ? node->steps->decoding_tokens() : node->kv_tokens,
       .waiting_prompt_tokens = waiting},
      now_);
}

void Simulator::EndPrompt(int32_t node_index, uint32_t index) {
  Flight& flight = flights_[index];
  Node& node = nodes_[static_cast<size_t>(node_index)];
  flight.record.prefill_us += flight.prefill_us;
  Keep(&node, flight.keys);
  const cluster::RequestId id{index};
  const bool overloaded = conductor_.IsDecodeOverloaded(id, now_);
  // The conductor takes a measurement to be of what it expected.
  const bool as_placed = flight.prefix_tokens == flight.placement.prefix_tokens;
  TellOfRequest(&node, Message::Kind::kPrefillEnded, index, as_placed ? flight.prefill_us : 0.0);
  const bool decodes_here = flight.prefill_node == flight.decode_node;
  if (decodes_here || first_token_ == cluster::FirstToken::kPrefill) CountToken(&flight, now_);
  if (overloaded || flight.made_tokens == flight.row->output_tokens) {
    node.kv_reserved -= std::exchange(flight.reserved_tokens, 0);
    if (!flight.gaps.empty()) flight.record.tbt_us = MeanOfLongestTenth(flight.gaps);
    EndFlight(index, overloaded ? Outcome::kRejectedLate : Outcome::kDone);
    return;
  }
  if (decodes_here) {
    Join(&node, index);
    return;
  }
  Stream(index);
}

// The first one of a request that goes on after a failure is one among others.
void Simulator::CountToken(Flight* flight, TimeUs at_us) {
  if (flight->made_tokens == 0) {
    flight->record.ttft_us = at_us - flight->record.arrival_us;
  } else {
    flight->gaps.push_back(static_cast<float>(at_us - flight->last_token_us));
  }
  flight->last_token_us = at_us;
  ++flight->made_tokens;
}

// Layer by layer while the prompt was computed, as far as the network was free; the last layer
// comes after it.
void Simulator::Stream(uint32_t index) {
  Flight& flight = flights_[index];
  flight.stage = Flight::Stage::kStream;
  Node& from = nodes_[static_cast<size_t>(flight.prefill_node)];
  Node& to = nodes_[static_cast<size_t>(flight.decode_node)];
  const int64_t bytes = model_.kv_bytes_per_token * flight.prompt_tokens;
  const double rate = model_.costs.network_bytes_per_s;
  const double us = rate <= 0.0 ? 0.0 : static_cast<double>(bytes) / rate * 1e6;
  const TimeUs copied_us = flight.prefill_start_us + static_cast<TimeUs>(us);
  for (TimeUs* free_us : {&from.out_free_us, &to.in_free_us}) {
    *free_us = std::max(copied_us, *free_us <= flight.prefill_start_us
                                       ? copied_us
                                       : *free_us + static_cast<TimeUs>(us));
  }
  result_.streamed_bytes += bytes;
  Push(std::max(copied_us, now_ + static_cast<TimeUs>(us / model_.layers)), EventKind::kStreamed,
       index, flight.epoch);
}

void Simulator::Streamed(uint32_t index) {
  Flight& flight = flights_[index];
  flight.stage = Flight::Stage::kJoining;
  nodes_[static_cast<size_t>(flight.decode_node)].joining.push_back(index);
  StartStep(flight.decode_node);
}

void Simulator::Admit(Node* node) {
  while (!node->joining.empty() && HasRoom(*node, flights_[node->joining.front()])) {
    const uint32_t index = node->joining.front();
    node->joining.pop_front();
    Join(node, index);
  }
}

void Simulator::Join(Node* node, uint32_t index) {
  Flight& flight = flights_[index];
  Reserve(node, &flight);
  flight.stage = Flight::Stage::kDecode;
  flight.keys = {};
  flight.join_step = node->step_ends.size();
  if (node->steps == nullptr) AddRunning(node, index);
  TellOfRequest(node, Message::Kind::kDecodeJoined, index);
}

void Simulator::AddRunning(Node* node, uint32_t index) {
  Flight& flight = flights_[index];
  // With the first token, where that has come from the node that prefilled.
  flight.joined_tokens = flight.row->prompt_tokens + flight.made_tokens;
  node->kv_tokens += flight.joined_tokens;
  const auto left = static_cast<size_t>(flight.row->output_tokens - flight.made_tokens);
  node->running.push({.last_step = flight.join_step + left - 1, .request = index});
}

// Takes what it did in `num_steps` steps out of the node.
void Simulator::Leave(Node* node, Flight* flight, size_t num_steps) {
  for (size_t i = 0; i < num_steps; ++i) {
    CountToken(flight, node->step_ends[flight->join_step + i]);
  }
  node->kv_tokens -= flight->joined_tokens + static_cast<int64_t>(num_steps);
  node->kv_reserved -= std::exchange(flight->reserved_tokens, 0);
}

void Simulator::EndDecode(Node* node, uint32_t index) {
  Flight& flight = flights_[index];
  Leave(node, &flight, node->step_ends.size() - flight.join_step);
  if (!flight.gaps.empty()) flight.record.tbt_us = MeanOfLongestTenth(flight.gaps);
  EndFlight(index, Outcome::kDone);
}

}  // namespace halfmoon::sim
