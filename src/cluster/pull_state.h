// SPDX-License-Identifier: Apache-2.0
// Internal to cluster: one pull of KV from another node.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "cluster/kv_puller.h"
#include "cluster/messages.h"
#include "store/block_store.h"
#include "transfer/transfer.h"

namespace halfmoon::cluster {

/// Brings what the other node says is ready together with the pages that wait for it. Thread-safe:
/// the engine, the channel's thread and the transfers' threads call it.
class PullState : public std::enable_shared_from_this<PullState> {
 public:
  /// Told of each read that arrived: its bytes, and how long it took. On a thread of the transfers.
  using OnArrived = std::function<void(size_t bytes, TimeUs us)>;

  /// keys: of the blocks from spec.first_block on. transfers and clock outlive the pull's
  /// transfers.
  PullState(SourceSpec spec, std::span<const kv::BlockKey> keys, const PageShape& shape,
            transfer::TransferEngine* transfers, const Clock* clock, OnArrived on_arrived = {});

  const SourceSpec& spec() const { return spec_; }

  // The engine's side; as store::BlockSource.

  int32_t Probe(std::span<const kv::BlockKey> keys);
  /// Whether the block is one that it pulls. Of any thread.
  bool Has(const kv::BlockKey& key) const { return index_.contains(key); }
  void Fetch(std::span<const store::BlockFetch> blocks);
  /// The blocks of these tags are no longer wanted, nor those behind them. What is before them goes
  /// on; where that has all ended, the pull fails.
  void Cancel(std::span<const store::BlockTag> tags);
  void Poll(std::vector<store::BlockEvent>* events);
  void SetWake(std::function<void()> wake);

  // What the other node says. A message that contradicts what was said or asked for ends the pull.

  void OnSegment(const KvSegment& segment);
  void OnReady(const KvReady& ready);
  /// What is complete by then still comes.
  void OnEnd(const KvEnd& end);

  /// Nothing more comes. Blocks being read end first.
  void Fail(const Error& error);
  /// Fail, where nothing has come for as long as the pull's patience.
  void FailIfStalled(TimeUs now_us);
  /// Every block that the other node has is here, or the pull has failed: its pages may go.
  bool done();
  /// Why blocks did not come; none so far.
  std::optional<Error> error();

 private:
  struct Piece {
    int first_layer = 0;
    int end_layer = 0;
    uint64_t offset = 0;
    uint64_t checksum = 0;
  };
  struct Block {
    std::vector<Piece> pieces;  // ready there, and not being read
    std::optional<store::BlockTag> tag;
    std::span<std::byte> page;
    int ready_layers = 0;
    int arrived_layers = 0;
    int reading = 0;  // transfers in flight into its page
    bool ended = false;
    bool arrived = false;  // and ended well
  };

  void StartReads();
  /// Pieces of a read, by block.
  struct Reading {
    std::vector<size_t> blocks;
    std::vector<int> layers;
    size_t bytes = 0;
    TimeUs began_us = 0;
  };

  void OnRead(const Reading& reading, const Status& status);
  void FailLocked(const Error& error);
  void CutLocked(size_t end, const Error& error);
  void StopLocked(Block* block, const Error& error);
  void EndLocked(Block* block, Status status);
  void AfterChange();

  const SourceSpec spec_;
  const PageShape shape_;
  transfer::TransferEngine* const transfers_;
  const Clock* const clock_;
  const OnArrived on_arrived_;
  std::unordered_map<kv::BlockKey, size_t> index_;  // does not change

  std::mutex mutex_;
  // All of the following: GUARDED_BY(mutex_)
  std::vector<Block> blocks_;
  std::string descriptor_;
  std::optional<Error> error_;
  std::optional<Error> cut_;  // why blocks from end_ on do not come
  size_t end_ = 0;            // of the blocks that may come
  bool told_end_ = false;     // by the other node
  std::vector<store::BlockEvent> events_;
  std::function<void()> wake_;
  std::vector<transfer::TransferId> reads_;
  std::vector<transfer::TransferId> given_up_;  // to be cancelled
  int num_reading_ = 0;
  TimeUs progress_us_;
};

}  // namespace halfmoon::cluster
