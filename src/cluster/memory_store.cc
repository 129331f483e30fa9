// SPDX-License-Identifier: Apache-2.0
#include "cluster/memory_store.h"

#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "cluster/node_record.h"

namespace halfmoon::cluster {

struct MemoryBoard::State {
  struct Follower {
    OnNodes on_nodes;
    std::vector<std::string> told;
  };

  std::vector<std::string> Addresses() const {
    std::set<std::string> addresses;
    for (const auto& [store, node] : nodes) addresses.insert(node.address);
    return {addresses.begin(), addresses.end()};
  }

  void Tell() {
    const std::vector<std::string> addresses = Addresses();
    for (auto& [store, follower] : followers) {
      if (follower.told == addresses) continue;
      follower.told = addresses;
      follower.on_nodes(addresses);
    }
  }

  std::mutex mutex;
  // GUARDED_BY(mutex) both:
  std::map<const MemoryStore*, NodeAnnouncement> nodes;
  std::map<const MemoryStore*, Follower> followers;
};

MemoryBoard::MemoryBoard() : state_(std::make_unique<State>()) {}
MemoryBoard::~MemoryBoard() = default;

MemoryStore::~MemoryStore() {
  MemoryBoard::State& state = *board_->state_;
  const std::lock_guard lock(state.mutex);
  state.followers.erase(this);
  state.nodes.erase(this);
  state.Tell();
}

Status MemoryStore::Announce(NodeAnnouncement node) {
  HM_TRY(CheckName("node name", node.name));
  HM_TRY(CheckAddress(node.address).WithContext("node '" + node.name + "'"));
  MemoryBoard::State& state = *board_->state_;
  const std::lock_guard lock(state.mutex);
  // The latest holder of a name has it.
  std::erase_if(state.nodes, [&](const auto& item) { return item.second.name == node.name; });
  state.nodes[this] = std::move(node);
  state.Tell();
  return {};
}

Status MemoryStore::Follow(OnNodes on_nodes) {
  MemoryBoard::State& state = *board_->state_;
  const std::lock_guard lock(state.mutex);
  if (state.followers.contains(this)) {
    return Error(ErrorCode::kInvalidArgument, "the nodes are followed already");
  }
  auto& follower = state.followers[this];
  follower = {.on_nodes = std::move(on_nodes), .told = state.Addresses()};
  follower.on_nodes(follower.told);
  return {};
}

}  // namespace halfmoon::cluster
