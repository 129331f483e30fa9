// SPDX-License-Identifier: Apache-2.0
// KV blocks between the engine's pages and wherever else they are: loads into pages of sequences
// that wait for them, and offers of blocks that were computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "engine/event_stream.h"
#include "engine/step_cost.h"
#include "sched/sequence_table.h"
#include "store/block_store.h"

namespace halfmoon::engine {

/// Engine thread only.
class BlockTraffic final : public sched::BlockLoads {
 public:
  struct Options {
    int32_t block_size = 0;
    size_t page_bytes = 0;
    int32_t max_offers = 0;  ///< pages held for the store at once, at least 1
  };
  struct Counters {
    uint64_t loaded_blocks = 0;
    uint64_t failed_blocks = 0;
    uint64_t load_wait_us = 0;
    uint64_t unoffered_blocks = 0;
  };
  /// How far a load has come: its first `blocks` are here.
  struct Progress {
    enum class State : uint8_t {
      kGoesOn,  ///< told of loads that were begun with BeginFromStore
      kLate,    ///< the store is silent: go on without the rest, whose pages it keeps until kEnded
      kEnded,
    };
    sched::SeqId id{};
    int32_t blocks = 0;
    State state = State::kEnded;
    /// Of these blocks, where they were if that is known; valid until the next Poll.
    std::span<const std::optional<kv::Tier>> tiers;
  };

  /// Borrows all but `wake`; the store may be null.
  BlockTraffic(const Options& options, store::BlockStore* store, const StepCosts* costs,
               const Clock* clock, std::shared_ptr<WakeSignal> wake);

  /// A request that brings its own source.
  void AddSource(sched::SeqId id, std::shared_ptr<store::BlockSource> source);
  /// Blocks that the request's source and the store can bring, one behind the other, the source
  /// first where both can. The end is left out as far as computing it is expected to take less time
  /// than bringing it. A store that is silent is not asked.
  int32_t Loadable(sched::SeqId id, std::span<const kv::BlockKey> keys,
                   int32_t start_tokens) override;
  /// Starts to load `keys` into pages. Requires that Loadable said so of them, and no load of this
  /// sequence.
  void Begin(sched::SeqId id, std::span<const kv::BlockKey> keys,
             std::span<const std::span<std::byte>> pages);
  /// The same for who is no sequence, block by block. Requires a store.
  void BeginFromStore(sched::SeqId id, std::span<const kv::BlockKey> keys,
                      std::span<const std::span<std::byte>> pages);
  /// How many leading blocks the store has, as far as it answers.
  int32_t ProbeStore(std::span<const kv::BlockKey> keys);
  /// The request has gone. Its load, if there is one, still ends.
  void Forget(sched::SeqId id);
  /// Appends what has become of loads, and lets go of pages whose offers have ended. With loads
  /// going on it is to be called now and then: the store's silence is noticed here.
  void Poll(std::vector<Progress>* progress);

  /// Blocks to offer to the store when there is room, parents first.
  void Remember(std::span<const kv::BlockKey> keys);
  /// Offers as much as there is room for. `base`: page memory.
  void StartOffers(sched::SequenceTable* table, const std::byte* base);

  bool idle() const { return flights_.empty() && offers_.empty(); }
  int num_waiting_offers() const { return static_cast<int>(offers_.size() + remembered_.size()); }
  int num_loading() const { return static_cast<int>(flights_.size()); }
  bool has_store() const { return store_ != nullptr; }
  const Counters& counters() const { return counters_; }

 private:
  enum class Arrival : uint8_t { kPending, kCame, kFailed };
  /// Consecutive blocks from one place.
  struct Part {
    std::shared_ptr<store::BlockSource> source;  // null: the store
    size_t blocks = 0;
  };
  struct Flight {
    std::vector<Part> parts;
    std::vector<Arrival> blocks;
    std::vector<std::optional<kv::Tier>> tiers;
    uint64_t first_tag = 0;
    size_t pending = 0;
    size_t came = 0;         // leading blocks
    bool cancelled = false;  // what is pending is of no use any longer
    bool stepwise = false;
    bool told_late = false;
    TimeUs began_us = 0;
    TimeUs heard_us = 0;  // of the store, last
    TimeUs patience_us = 0;
  };

  store::BlockSource* SourceOf(const Part& part) const {
    return part.source != nullptr ? part.source.get() : store_;
  }
  Flight& Start(sched::SeqId id, std::vector<Part> parts, std::span<const kv::BlockKey> keys,
                std::span<const std::span<std::byte>> pages);
  bool WaitsForStore(const Flight& flight) const;
  bool IsWorthIt(store::BlockSource* source, std::span<const kv::BlockKey> keys,
                 int32_t start_tokens) const;
  void Take(const store::BlockEvent& event, TimeUs now_us);
  void TellLate(Flight* flight);
  void CancelFrom(Flight* flight, size_t block) const;

  const Options options_;
  store::BlockStore* const store_;
  const StepCosts* const costs_;
  const Clock* const clock_;
  const std::shared_ptr<WakeSignal> wake_;
  std::map<sched::SeqId, std::shared_ptr<store::BlockSource>> sources_;
  std::map<sched::SeqId, std::vector<Part>> loadable_;  // what the last Loadable meant
  std::map<sched::SeqId, Flight> flights_;
  std::map<uint64_t, sched::SeqId> flight_of_tag_;  // by first tag
  int num_late_ = 0;                                // flights that the store leaves waiting
  std::unordered_map<uint64_t, kv::PageRef> offers_;
  std::deque<kv::BlockKey> remembered_;
  uint64_t next_tag_ = 1;
  Counters counters_;
  std::vector<store::BlockEvent> events_;
  std::vector<Flight> ended_;  // what the last Poll's tiers refer to
};

}  // namespace halfmoon::engine
