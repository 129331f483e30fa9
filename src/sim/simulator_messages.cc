// SPDX-License-Identifier: Apache-2.0
// What nodes tell the conductor, at once or late.
#include <algorithm>
#include <utility>

#include "sim/simulator.h"

namespace halfmoon::sim {

TimeUs Simulator::DrawDelay() {
  delay_draw_ = Mix(delay_draw_);
  return static_cast<TimeUs>(delay_draw_ % static_cast<uint64_t>(options_.report_delay_us + 1));
}

// A connection keeps the order of what goes over it.
void Simulator::Tell(Node* node, Message message) {
  if (options_.report_delay_us <= 0) {
    Deliver(*node, message);
    return;
  }
  node->outbox_free_us = std::max(node->outbox_free_us, now_ + DrawDelay());
  node->outbox.push_back(std::move(message));
  Push(node->outbox_free_us, EventKind::kMessage, static_cast<uint32_t>(node - nodes_.data()),
       node->connection);
}

void Simulator::TellOfRequest(Node* node, Message::Kind kind, uint32_t index, double prefill_us) {
  Tell(node,
       {.kind = kind, .request = index, .epoch = flights_[index].epoch, .prefill_us = prefill_us});
}

void Simulator::TellOfBlocks(Node* node, std::vector<BlockChange> changes) {
  if (changes.empty()) return;
  Tell(node, {.kind = Message::Kind::kBlocks, .blocks = std::move(changes)});
}

void Simulator::DeliverBlocks(const Node& node, std::span<const BlockChange> changes) {
  std::vector<kv::BlockKey> keys;
  while (!changes.empty()) {
    const BlockChange& first = changes.front();
    keys.clear();
    for (const BlockChange& change : changes) {
      if (change.tier != first.tier || change.stored != first.stored) break;
      keys.push_back(change.key);
    }
    if (first.stored) {
      conductor_.BlocksStored(node.id, first.tier, keys);
    } else {
      conductor_.BlocksRemoved(node.id, first.tier, keys);
    }
    changes = changes.subspan(keys.size());
  }
}

// What is told of a request that was placed anew meanwhile is of its old call, and known to be. Of
// one that has ended it is passed on: the conductor has to pass over it.
void Simulator::Deliver(const Node& node, const Message& message) {
  const cluster::RequestId id{message.request};
  const bool of_request =
      message.kind != Message::Kind::kBlocks && message.kind != Message::Kind::kLoad;
  if (of_request) {
    const Flight& flight = flights_[message.request];
    if (flight.epoch != message.epoch && flight.stage != Flight::Stage::kEnded) return;
  }
  switch (message.kind) {
    case Message::Kind::kBlocks:
      DeliverBlocks(node, message.blocks);
      return;
    case Message::Kind::kLoad:
      conductor_.ReportLoad(node.id, message.load, now_);
      return;
    case Message::Kind::kPrefillStarted:
      conductor_.PrefillStarted(id, now_);
      return;
    case Message::Kind::kPrefillEnded:
      conductor_.PrefillEnded(id, message.prefill_us, now_);
      return;
    case Message::Kind::kDecodeJoined:
      conductor_.DecodeJoined(id, now_);
      return;
  }
}

}  // namespace halfmoon::sim
