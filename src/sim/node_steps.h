// SPDX-License-Identifier: Apache-2.0
// The steps of a simulated node as a real one plans them: sequences of token ids, pages, and
// sched::MakePlan. For small cases; the simulator's own steps are sums of what these do.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/node.h"
#include "sched/sequence_table.h"

namespace halfmoon::sim {

/// Sequences are called by the number of their request. Each is here once.
class NodeSteps : private sched::BlockLoads {
 public:
  struct Options {
    sched::Limits limits;
    int32_t num_pages = 0;
    cluster::NodeCosts costs;
    bool leak_page = false;  ///< for tests: a page of what is removed stays held
  };
  explicit NodeSteps(const Options& options);

  /// `there_tokens` of its KV are on the node, in no page. Requires ids that fit the pages.
  void Add(uint32_t request, std::vector<int32_t> ids, int32_t there_tokens);
  /// Requires that it is here.
  void Remove(uint32_t request);
  bool Has(uint32_t request) const { return ids_.contains(request); }

  struct Step {
    double us = 0.0;
    double prompt_us = 0.0;          ///< of that, for tokens of prompts
    std::vector<uint32_t> computes;  ///< whose turn it is
  };
  /// Plans a step: what prompts may add to it where others decode; 0: as much as there is. nullopt
  /// where nothing can be computed. To be followed by End.
  std::optional<Step> Begin(double most_prompt_us);
  /// Of those whose tokens are all computed now, in order of arrival: the next token is due.
  std::vector<uint32_t> Count();
  void Append(uint32_t request, int32_t token) { table_.Append(ids_.at(request), token); }
  /// Publishes what was computed. Before sequences that have ended are removed.
  void End();

  int32_t num_sequences() const { return static_cast<int32_t>(ids_.size()); }
  int32_t num_decoding() const { return num_decoding_; }        ///< in the last step
  int64_t decoding_tokens() const { return decoding_tokens_; }  ///< that they held

  /// The first thing that does not hold now, empty when all does: each page has as many holders as
  /// sequences have it in their tables, nobody else has a page that is written to in this step, and
  /// the step keeps its budgets. With no sequence left, no page is in use.
  std::string Violation();

 private:
  int32_t Loadable(sched::SeqId id, std::span<const kv::BlockKey> keys,
                   int32_t start_tokens) override;

  const Options options_;
  sched::SequenceTable table_;
  std::map<uint32_t, sched::SeqId> ids_;
  std::map<sched::SeqId, uint32_t> requests_;
  std::map<sched::SeqId, int32_t> there_tokens_;
  uint64_t next_id_ = 1;
  sched::Plan plan_;
  std::vector<kv::PageRef> leaked_;
  int32_t num_decoding_ = 0;
  int64_t decoding_tokens_ = 0;
};

}  // namespace halfmoon::sim
