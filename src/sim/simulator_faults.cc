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

// Nothing is computed there from now on, and what is on its way from there does not come.
void Simulator::Fail(const Fault& fault) {
  Node& node = nodes_[static_cast<size_t>(fault.node)];
  if (!node.up) return;
  node.up = false;
  node.noticed = false;
  node.lost_blocks = !fault.keeps_blocks;
  ++node.epoch;
  node.busy = false;
  if (fault.notice_us <= 0) {
    Notice(fault.node);
  } else {
    Push(now_ + fault.notice_us, EventKind::kNotice, static_cast<uint32_t>(fault.node), node.epoch);
  }
}

// Whoever waits in front of the cluster hears from the conductor which requests that concerns, and
// asks again with the tokens that came. A conductor that hears late may name some that have left
// the node; those are taken from where they are.
void Simulator::Notice(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (node.noticed) return;
  node.noticed = true;
  std::set<uint32_t> concerned;
  for (size_t i = 0; i < flights_.size(); ++i) {
    const Flight& flight = flights_[i];
    if (flight.row == nullptr || flight.stage == Flight::Stage::kEnded) continue;
    const bool sends = flight.stage != Flight::Stage::kDecode;
    if (flight.decode_node == index || (sends && flight.prefill_node == index)) {
      concerned.insert(static_cast<uint32_t>(i));
    }
  }
  std::set<uint32_t> told;
  for (const cluster::RequestId id : conductor_.NodeLeft(node.id)) {
    Require(told.insert(static_cast<uint32_t>(id)).second, "a request handed back twice");
  }
  const bool all = std::ranges::includes(told, concerned);
  Require(all && (told.size() == concerned.size() || options_.report_delay_us > 0),
          "handed back " + std::to_string(told.size()) + " requests, but " +
              std::to_string(concerned.size()) + " were there");
  for (const uint32_t request : told) Withdraw(request);
  Require(node.kv_reserved == 0 && node.kv_tokens == 0, "KV is left on a node that failed");
  node.current = -1;
  node.running = {};
  if (node.lost_blocks) node.cache->Clear();
  node.steps = MakeSteps(node);
  if (options_.bug == Bug::kLoseRequest && !told.empty()) told.erase(std::prev(told.end()));
  for (const uint32_t request : told) Place(request);
}

// Out of the nodes where it is.
void Simulator::Withdraw(uint32_t index) {
  Flight& flight = flights_[index];
  ++flight.epoch;
  Node& decode = nodes_[static_cast<size_t>(flight.decode_node)];
  Node& prefill = nodes_[static_cast<size_t>(flight.prefill_node)];
  if (options_.detailed) {
    for (Node* node : {&prefill, &decode}) {
      if (node->steps->Has(index)) node->steps->Remove(index);
    }
  } else if (flight.stage == Flight::Stage::kDecode) {
    RemoveRunning(&decode, index);
    Leave(&decode, &flight, decode.step_ends.size() - flight.join_step);
  } else {
    decode.kv_reserved -= std::exchange(flight.reserved_tokens, 0);
  }
  std::erase(decode.joining, index);
  std::erase(prefill.prompts, index);
  if (prefill.current == static_cast<int64_t>(index)) prefill.current = -1;
  if (flight.stage == Flight::Stage::kPrefill) flight.record.prefill_us += flight.prefill_us;
}

void Simulator::RemoveRunning(Node* node, uint32_t index) {
  std::priority_queue<Running, std::vector<Running>, std::greater<>> others;
  for (; !node->running.empty(); node->running.pop()) {
    if (node->running.top().request != index) others.push(node->running.top());
  }
  node->running = std::move(others);
}

// Over a new connection: what was on its way over the old one does not come.
void Simulator::Return(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  if (node.up) return;
  Notice(index);
  node.up = true;
  ++node.connection;
  node.outbox.clear();
  node.outbox_free_us = now_;
  conductor_.NodeJoined(node.id, InfoOf(node));
  std::vector<BlockChange> blocks;
  node.cache->List(&blocks);
  TellOfBlocks(&node, std::move(blocks));
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
  Require(conductor_.num_pending_blocks() == 0, "the conductor still waits for blocks at the end");
}

}  // namespace halfmoon::sim
