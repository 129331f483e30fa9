// SPDX-License-Identifier: Apache-2.0
// Nodes that fail and come back, and what must hold whatever happens.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "sim/simulator.h"

namespace halfmoon::sim {

void Simulator::Require(bool holds, const std::string& what) {
  if (holds || !violation_.empty()) return;
  violation_ = "at " + std::to_string(now_) + " us: " + what;
}

// What was on the node is lost. Whoever waits in front of the cluster knows from the conductor
// which requests that concerns, and asks again with the tokens that came.
void Simulator::Fail(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (!node.up) return;
  std::set<uint32_t> concerned;
  for (size_t i = 0; i < flights_.size(); ++i) {
    const Flight& flight = flights_[i];
    if (flight.row == nullptr || flight.stage == Flight::Stage::kEnded) continue;
    const bool sends = flight.stage == Flight::Stage::kPrefill ||
                       flight.stage == Flight::Stage::kStream ||
                       flight.stage == Flight::Stage::kJoining;
    if (flight.decode_node == index || (sends && flight.prefill_node == index)) {
      concerned.insert(static_cast<uint32_t>(i));
    }
  }
  std::set<uint32_t> told;
  for (const cluster::RequestId id : conductor_.NodeLeft(node.id)) {
    Require(told.insert(static_cast<uint32_t>(id)).second, "a request handed back twice");
  }
  Require(told == concerned, "handed back " + std::to_string(told.size()) + " requests, but " +
                                 std::to_string(concerned.size()) + " were there");
  for (const uint32_t request : concerned) {
    Flight& flight = flights_[request];
    ++flight.epoch;
    Node& decode = nodes_[static_cast<size_t>(flight.decode_node)];
    if (options_.detailed) {
      for (const int32_t there : {flight.prefill_node, flight.decode_node}) {
        NodeSteps& steps = *nodes_[static_cast<size_t>(there)].steps;
        if (steps.Has(request)) steps.Remove(request);
      }
    } else if (flight.stage == Flight::Stage::kDecode) {
      Leave(&decode, &flight, decode.step_ends.size() - flight.join_step);
    } else {
      decode.kv_reserved -= std::exchange(flight.reserved_tokens, 0);
    }
    std::erase(decode.joining, request);
    Node& prefill = nodes_[static_cast<size_t>(flight.prefill_node)];
    std::erase(prefill.prompts, request);
    if (prefill.current == static_cast<int64_t>(request)) prefill.current = -1;
    if (flight.stage == Flight::Stage::kPrefill) flight.record.prefill_us += flight.prefill_us;
  }
  Require(node.kv_reserved == 0 && node.kv_tokens == 0, "KV is left on a node that failed");
  node.up = false;
  ++node.epoch;
  node.busy = false;
  node.current = -1;
  node.running = {};
  node.cache->Clear();
  node.steps = MakeSteps(node);
  for (const uint32_t request : concerned) Place(request);
}

void Simulator::Return(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (node.up) return;
  node.up = true;
  conductor_.NodeJoined(node.id, InfoOf(node));
}

void Simulator::CheckEnd() {
  for (size_t i = 0; i < flights_.size(); ++i) {
    const Flight& flight = flights_[i];
    Require(flight.record.outcome != Outcome::kLive,
            "request " + std::to_string(i) + " never ended");
    Require(
        flight.record.outcome != Outcome::kDone || flight.made_tokens == flight.row->output_tokens,
        "request " + std::to_string(i) + " has " + std::to_string(flight.made_tokens) +
            " tokens of " + std::to_string(flight.row->output_tokens));
  }
  for (const Node& node : nodes_) {
    Require(node.cache->num_lost() == 0, "slots of the store are lost");
    if (node.steps != nullptr) {
      Require(node.steps->num_sequences() == 0, "sequences left at the end");
      const std::string violation = node.steps->Violation();
      Require(violation.empty(), violation);
    }
    Require(node.kv_reserved == 0, "KV reserved at the end");
    Require(node.kv_tokens == 0, "KV tokens at the end");
    Require(node.prompts.empty() && node.joining.empty() && node.running.empty(),
            "work left at the end");
  }
  Require(conductor_.num_requests() == 0, "the conductor still tracks requests at the end");
}

}  // namespace halfmoon::sim
