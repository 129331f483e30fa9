// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_plan.h"

namespace halfmoon::kernels {

AttentionItem ItemAt(const AttentionProblem& problem, int64_t index) {
  const int64_t head_blocks = problem.head_blocks();
  const AttentionSequence* sequence = problem.sequences.data();
  int64_t block = index / head_blocks;
  int64_t blocks = CeilDiv(sequence->count, problem.item_queries());
  while (block >= blocks) {
    block -= blocks;
    ++sequence;
    blocks = CeilDiv(sequence->count, problem.item_queries());
  }
  // Last queries first: they see the most.
  block = blocks - 1 - block;
  AttentionItem item;
  item.sequence = sequence;
  item.head_block = static_cast<int32_t>(index % head_blocks);
  item.first_query = static_cast<int32_t>(block * problem.item_queries());
  item.num_queries = static_cast<int32_t>(
      std::min<int64_t>(problem.item_queries(), sequence->count - item.first_query));
  const int32_t first_position = sequence->start + item.first_query;
  item.num_positions = first_position + item.num_queries;
  item.chosen = nullptr;
  if (problem.selection != nullptr) {
    // The positions that a query has chosen are numbered from 0, and splits count those numbers:
    // what a query sees depends on its choice alone, and a choice of all is dense attention.
    const int64_t row = sequence->row + item.first_query;
    item.chosen = problem.selection->positions + row * problem.selection->stride;
    item.num_positions = problem.selection->counts[row];
  }
  const int32_t window = problem.shape.sliding_window;
  item.first_split = window > 0 ? std::max(0, first_position + 1 - window) / kAttentionSplit : 0;
  item.end_split = static_cast<int32_t>(CeilDiv(item.num_positions, kAttentionSplit));
  return item;
}

}  // namespace halfmoon::kernels
