// SPDX-License-Identifier: Apache-2.0
// A MetaStore within one process: for tests, and for a conductor and nodes that share a process.
#pragma once

#include <memory>

#include "cluster/meta_store.h"

namespace halfmoon::cluster {

/// What the stores of one cluster share. Thread-safe.
class MemoryBoard {
 public:
  MemoryBoard();
  MemoryBoard(const MemoryBoard&) = delete;
  MemoryBoard& operator=(const MemoryBoard&) = delete;
  ~MemoryBoard();

 private:
  friend class MemoryStore;
  struct State;
  std::unique_ptr<State> state_;
};

/// Callbacks run within Announce, Follow and the destructor of any store of the board, and must not
/// call these. A node is there until its store ends.
class MemoryStore final : public MetaStore {
 public:
  explicit MemoryStore(std::shared_ptr<MemoryBoard> board) : board_(std::move(board)) {}
  ~MemoryStore() override;

  Status Announce(NodeAnnouncement node) override;
  Status Follow(OnNodes on_nodes) override;
  std::string state() const override { return "connected"; }

 private:
  const std::shared_ptr<MemoryBoard> board_;
};

}  // namespace halfmoon::cluster
