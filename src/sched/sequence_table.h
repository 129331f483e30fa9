// SPDX-License-Identifier: Apache-2.0
// The sequences of an engine and the pages they hold: turns them into a scheduler state, carries
// out the plan, and publishes finished blocks. Everything of a step except computing and sampling,
// so that tests and simulator run it as it is.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "kv/block_key.h"
#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "sched/scheduler.h"

namespace halfmoon::sched {

/// Says what of a prefix can be brought into pages from elsewhere. Used by the thread of the table.
class BlockLoads {
 public:
  virtual ~BlockLoads() = default;
  /// How many leading `keys` are worth loading. They are blocks of a waiting sequence, and follow
  /// its first `start_tokens` tokens, which are in pages.
  virtual int32_t Loadable(SeqId id, std::span<const kv::BlockKey> keys, int32_t start_tokens) = 0;
};

/// What is known of a sequence when it arrives.
struct NewSequence {
  std::vector<int32_t> ids;      ///< prompt, at least 1
  kv::BlockKey seed;             ///< kv::SeedKey of its model and tenant
  int32_t max_share_tokens = 0;  ///< most tokens of it in one step; 0: no limit of its own
  /// Tokens whose KV may come from the index; beyond it they are computed. The last known token is
  /// computed in any case, because its logits are needed.
  int32_t reuse_limit_tokens = INT32_MAX;
  int64_t priority = 0;       ///< of its turn (scheduler.h)
  int64_t order_us = 0;       ///< of its turn
  double max_chunk_us = 0.0;  ///< as RunningSequence::max_chunk_us
};

/// One sequence. `ids` and `computed_tokens` as the scheduler's wanted and computed.
struct Sequence {
  std::vector<int32_t> ids;
  int32_t computed_tokens = 0;
  int32_t reused_tokens = 0;  ///< of the last admission: tokens that came from the index or a load
  std::vector<int32_t> page_table;  ///< for kernels::PagedKv; parallel to pages
  std::vector<kv::PageRef> pages;
  int32_t max_share_tokens = 0;
  int32_t reuse_limit_tokens = INT32_MAX;
  int32_t draft_tokens = 0;  ///< guesses it would like to have checked in the next step
  bool running = false;
  bool paused = false;
  bool loading = false;  ///< running, and pages behind computed_tokens are being filled

 private:
  friend class SequenceTable;
  Turn turn_;
  double max_chunk_us_ = 0.0;
  kv::BlockKey seed_;
  std::vector<kv::BlockKey> keys_;  // of the full blocks of ids, as far as they were needed
  int32_t sealed_blocks_ = 0;       // of pages: published, or found to be so
  bool publish_ = false;            // off once a block of it could not be published
  int64_t served_step_ = 0;
  // What could be loaded when it was asked last, which costs a look-up a block.
  int32_t loadable_end_block_ = 0;
  int32_t loadable_from_block_ = -1;
  int64_t loadable_step_ = 0;
  bool may_load_ = true;  // off once a load has brought less than was hoped for
};

struct TableOptions {
  Limits limits;
  int32_t num_pages = 0;
  bool prefix_cache = true;
  bool track_blocks = false;    ///< index_changes tells of blocks
  BlockLoads* loads = nullptr;  ///< outlives the table; null: nothing can be loaded
  bool note_sealed = false;     ///< keep what TakeSealed tells
};

/// Engine thread only.
class SequenceTable {
 public:
  /// Requires limits as MakePlan does, and num_pages >= 1.
  explicit SequenceTable(const TableOptions& options);
  ~SequenceTable();
  SequenceTable(const SequenceTable&) = delete;
  SequenceTable& operator=(const SequenceTable&) = delete;

  /// Queues a sequence. Requires an id above all earlier ones and a prompt that fits num_pages.
  void Add(SeqId id, NewSequence sequence);
  /// Takes a sequence out, whatever its state, and gives its pages back; those of one that is
  /// loading when that has ended.
  void Remove(SeqId id);
  /// Requires that it is here.
  Sequence& At(SeqId id) { return sequences_.at(id); }

  /// What prompts may take of the steps from now on beside sequences that decode.
  void SetPromptLimit(const PromptLimit& limit) { prompt_limit_ = limit; }
  /// Plans the next step and carries it out as far as pages go: preempted sequences hold none,
  /// admitted ones hold their prefix and the pages of their loads, and each share has the pages it
  /// writes to.
  Plan BeginStep();
  /// The blocks that a sequence is loading; the first one's page is that of its computed_tokens.
  std::span<const kv::BlockKey> LoadingKeys(SeqId id) const;
  /// A load has ended, of which the first `blocks` came: they count as computed and are published,
  /// the rest is computed. Also for a sequence that was removed meanwhile.
  void EndLoad(SeqId id, int32_t blocks);
  /// As EndLoad, while somebody may still write to the other pages of the load: those are kept, by
  /// nobody, until EndLoad says that this is over. Nothing where the sequence has gone.
  void AbandonLoad(SeqId id, int32_t blocks);
  /// What the shares asked for is computed: counts the tokens, guesses not among them. To be called
  /// before tokens are appended.
  void CountComputed(std::span<const Share> shares);
  /// The next token of a sequence whose tokens are all computed.
  void Append(SeqId id, int32_t token) { At(id).ids.push_back(token); }
  /// Counts the last token as computed too: the step had it as a guess. Requires that it lacks just
  /// this one, and that this step's guesses reach as far.
  void AcceptDraft(SeqId id);
  /// Publishes the blocks of the shares that are full now, and takes back pages that only guesses
  /// which did not come true have written to.
  void EndStep(std::span<const Share> shares);

  /// One more holder of the page of a sequence's block. Requires that it has that page.
  kv::PageRef HoldPage(SeqId id, size_t block) { return pool_.Hold(At(id).pages.at(block).page()); }
  /// What became of blocks since ForgetIndexChanges; none without track_blocks.
  const std::vector<kv::PrefixIndex::Change>& index_changes() const { return index_.changes(); }
  void ForgetIndexChanges() { index_.ForgetChanges(); }
  /// Appends the blocks that were published since the last call, each after those before it.
  void TakeSealed(std::vector<kv::BlockKey>* keys);
  /// How many that would tell.
  size_t num_sealed() const { return sealed_.size(); }
  /// Holds the page of a published block; nullopt where it is gone.
  std::optional<kv::PageRef> HoldBlock(const kv::BlockKey& key) { return index_.Hold(key); }
  /// Block `number` of a prompt: keys[i] names its i-th block, `seed` what is before them. For who
  /// wants pages and computes nothing; see kv::PrefixIndex.
  struct Block {
    kv::BlockKey seed;
    std::span<const kv::BlockKey> keys;
    std::span<const int32_t> ids;
    size_t number = 0;
  };
  std::optional<kv::PageRef> HoldBlock(const Block& block);
  /// Publishes a block that has come into `page`; nullopt where it cannot be, and `page` stays.
  std::optional<kv::PageRef> PublishBlock(const Block& block, kv::PageRef* page);
  /// A page beside those of sequences; nullopt where all are held. Plans do without it from now on.
  std::optional<kv::PageRef> TakePage() { return index_.Allocate(); }

  const kv::PagePool& pool() const { return pool_; }
  int32_t num_running() const { return num_running_; }
  int32_t num_waiting() const { return static_cast<int32_t>(sequences_.size()) - num_running_; }
  int64_t steps() const { return step_; }

 private:
  State MakeState();
  WaitingSequence Describe(SeqId id, Sequence* sequence);
  bool ShouldDefer(const Sequence& sequence, int32_t hit_blocks,
                   std::span<const Sequence* const> ahead) const;
  int32_t LoadablePages(SeqId id, Sequence* sequence, int32_t hit_blocks, int32_t blocks) const;
  void TakePages(Sequence* sequence, int32_t count);
  void Leave(SeqId id, Sequence* sequence);
  void TakeLoaded(Sequence* sequence, int32_t blocks);
  std::span<const int32_t> TokensOf(const Block& block) const;
  int32_t ReusableBlocks(const Sequence& sequence) const;
  void ComputeKeys(Sequence* sequence, int32_t blocks) const;
  void Preempt(Sequence* sequence);
  void Admit(Sequence* sequence);
  void Seal(Sequence* sequence);
  void Trim(Sequence* sequence) const;

  const Limits limits_;
  const bool prefix_cache_;
  BlockLoads* const loads_;
  const bool note_sealed_;
  PromptLimit prompt_limit_;
  kv::PagePool pool_;
  kv::PrefixIndex index_;
  std::map<SeqId, Sequence> sequences_;
  std::set<Turn> turns_;                               // of all of them
  std::map<SeqId, std::vector<kv::PageRef>> leaving_;  // of nobody, and still being written to
  std::vector<kv::BlockKey> sealed_;
  int32_t num_running_ = 0;
  int64_t step_ = 0;
};

}  // namespace halfmoon::sched
