// SPDX-License-Identifier: Apache-2.0
#include "cluster/block_report.h"

#include <utility>

namespace halfmoon::cluster {
namespace {

// Half a MiB of keys, which take a conductor some milliseconds.
constexpr int32_t kKeysPerMessage = 32'768;
constexpr std::array kLowerTiers = {Tier::kDram, Tier::kSsd};

void Send(net::Channel* to, const Blocks& message) {
  // A channel that is closed says so itself.
  (void)to->Send(static_cast<uint16_t>(MessageType::kBlocks), Encode(message));
}

}  // namespace

void BlockReport::Add(const std::shared_ptr<net::Channel>& conductor) {
  TakePages();
  listeners_[conductor.get()] = {.channel = conductor};
  Blocks message;
  for (const kv::BlockKey& key : in_pages_) {
    message.added.push_back(key);
    if (message.added.size() < kKeysPerMessage) continue;
    Send(conductor.get(), std::exchange(message, {}));
  }
  if (!message.added.empty()) Send(conductor.get(), message);
}

bool BlockReport::Tell() {
  TakePages();
  bool more = false;
  for (const Tier tier : kLowerTiers) {
    more = TellChanges(tier) || more;
    for (auto& [key, listener] : listeners_) more = ListMore(&listener, tier) || more;
  }
  return more;
}

void BlockReport::TakePages() {
  Blocks changes;
  (void)engine_->TakeBlockChanges(Tier::kPages, kKeysPerMessage, &changes.added, &changes.removed);
  for (const kv::BlockKey& key : changes.added) in_pages_.insert(key);
  for (const kv::BlockKey& key : changes.removed) in_pages_.erase(key);
  Broadcast(changes);
}

bool BlockReport::TellChanges(Tier tier) {
  Blocks changes{.tier = tier};
  const bool more =
      engine_->TakeBlockChanges(tier, kKeysPerMessage, &changes.added, &changes.removed);
  Broadcast(changes);
  return more;
}

bool BlockReport::ListMore(Listener* listener, Tier tier) {
  const auto index = static_cast<size_t>(tier);
  if (listener->listed[index]) return false;
  Blocks told{.tier = tier};
  const bool more =
      engine_->ListToldBlocks(tier, kKeysPerMessage, &listener->next[index], &told.added);
  listener->listed[index] = !more;
  if (!told.added.empty()) Send(listener->channel.get(), told);
  return more;
}

void BlockReport::Broadcast(const Blocks& message) const {
  if (message.added.empty() && message.removed.empty()) return;
  for (const auto& [key, listener] : listeners_) Send(listener.channel.get(), message);
}

}  // namespace halfmoon::cluster
