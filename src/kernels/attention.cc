// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/exp.h"
#include "kernels/for_rows.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// State rows (query x head) of an item: enough to reuse keys and values from the cache, few enough
// to spread a prefill over threads.
constexpr int64_t kItemRows = 64;
// Below this many items a thread, splits of one item run on different threads.
constexpr int64_t kItemsPerThread = 8;
// Bound of the scratch for that; past it, items run whole.
constexpr int64_t kMaxSplitFloats = 4 << 20;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What all items of one call share.
struct Problem {
  const KvLayout& layout;
  int layer;
  const AttentionShape& shape;
  std::span<const AttentionSequence> sequences;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;

  int64_t group() const { return shape.num_heads / layout.num_kv_heads; }
  int64_t item_queries() const { return std::max<int64_t>(1, kItemRows / group()); }
  int64_t stride() const { return AttendStateStride(shape.head_dim); }
  int64_t item_floats() const { return item_queries() * group() * stride(); }
  int64_t num_items() const {
    int64_t blocks = 0;
    for (const AttentionSequence& s : sequences) blocks += CeilDiv(s.count, item_queries());
    return blocks * layout.num_kv_heads;
  }
};

// One (sequence, KV head, block of queries) and the splits that its queries see.
struct Item {
  const AttentionSequence* sequence;
  int32_t kv_head;
  int32_t first_query;
  int32_t num_queries;
  int32_t first_split;
  int32_t end_split;
  int32_t num_positions;  // positions 0 .. num_positions - 1 are seen by the last query
};

Item ItemAt(const Problem& problem, int64_t index) {
  const int64_t kv_heads = problem.layout.num_kv_heads;
  const AttentionSequence* sequence = problem.sequences.data();
  int64_t block = index / kv_heads;
  int64_t blocks = CeilDiv(sequence->count, problem.item_queries());
  while (block >= blocks) {
    block -= blocks;
    ++sequence;
    blocks = CeilDiv(sequence->count, problem.item_queries());
  }
  // Last queries first: they see the most.
  block = blocks - 1 - block;
  Item item;
  item.sequence = sequence;
  item.kv_head = static_cast<int32_t>(index % kv_heads);
  item.first_query = static_cast<int32_t>(block * problem.item_queries());
  item.num_queries = static_cast<int32_t>(
      std::min<int64_t>(problem.item_queries(), sequence->count - item.first_query));
  const int32_t first_position = sequence->start + item.first_query;
  item.num_positions = first_position + item.num_queries;
  const int32_t window = problem.shape.sliding_window;
  item.first_split = window > 0 ? std::max(0, first_position + 1 - window) / kAttentionSplit : 0;
  item.end_split = static_cast<int32_t>(CeilDiv(item.num_positions, kAttentionSplit));
  return item;
}

// `end_split`: the same thread goes on with the splits up to there.
void AttendSplit(const Stream& stream, const Problem& problem, const Item& item, int32_t split,
                 int32_t end_split, float* state) {
  const KvLayout& layout = problem.layout;
  const int64_t first_row = item.sequence->row + item.first_query;
  AttendArgs args;
  args.pages = item.sequence->kv.base;
  args.page_bytes = layout.page_bytes();
  args.page_table = item.sequence->kv.page_table.data();
  args.k_offset = layout.k_offset(problem.layer, item.kv_head);
  args.v_offset = layout.v_offset(problem.layer, item.kv_head);
  args.block_size = layout.block_size;
  args.head_dim = problem.shape.head_dim;
  args.type = layout.type;
  args.group = static_cast<int32_t>(problem.group());
  args.scale = problem.shape.scale;
  args.window = problem.shape.sliding_window;
  args.q = problem.q + first_row * problem.q_stride +
           item.kv_head * problem.group() * problem.shape.head_dim;
  args.q_stride = problem.q_stride;
  args.position = item.sequence->start + item.first_query;
  args.num_queries = item.num_queries;
  args.begin = split * kAttentionSplit;
  args.end = std::min(item.num_positions, (split + 1) * kAttentionSplit);
  args.fetch_end = std::min(item.num_positions, end_split * kAttentionSplit);
  args.state = state;
  stream.table().attend(args);
}

// to = to merged with the later split `from`; both are state rows.
void MergeRow(int64_t head_dim, const float* __restrict from, float* __restrict to) {
  const int64_t max = AttendStateMax(head_dim);
  const int64_t sum = AttendStateSum(head_dim);
  if (from[sum] == 0.0f) return;
  if (to[sum] == 0.0f) {
    std::copy_n(from, AttendStateStride(head_dim), to);
    return;
  }
  const float merged = from[max] > to[max] ? from[max] : to[max];
  const float a = Exp(to[max] - merged);
  const float b = Exp(from[max] - merged);
  to[max] = merged;
  to[sum] = to[sum] * a + from[sum] * b;
  for (int64_t d = 0; d < max; d += 16) {
    for (int64_t i = d; i < d + 16; ++i) to[i] = to[i] * a + from[i] * b;
  }
}

void MergeItem(const Problem& problem, const Item& item, const float* from, float* to) {
  const int64_t rows = item.num_queries * problem.group();
  for (int64_t row = 0; row < rows; ++row) {
    MergeRow(problem.shape.head_dim, from + row * problem.stride(), to + row * problem.stride());
  }
}

void StoreItem(const Problem& problem, const Item& item, const float* state) {
  const int64_t head_dim = problem.shape.head_dim;
  for (int64_t i = 0; i < item.num_queries; ++i) {
    float* out = problem.out + (item.sequence->row + item.first_query + i) * problem.out_stride +
                 item.kv_head * problem.group() * head_dim;
    for (int64_t h = 0; h < problem.group(); ++h) {
      const float* row = state + (i * problem.group() + h) * problem.stride();
      const float sum = row[AttendStateSum(head_dim)];
      for (int64_t d = 0; d < head_dim; ++d) out[h * head_dim + d] = row[d] / sum;
    }
  }
}

void RunWholeItem(const Stream& stream, const Problem& problem, int64_t index, float* scratch) {
  const Item item = ItemAt(problem, index);
  float* merged = scratch;
  float* next = scratch + problem.item_floats();
  AttendSplit(stream, problem, item, item.first_split, item.end_split, merged);
  for (int32_t split = item.first_split + 1; split < item.end_split; ++split) {
    AttendSplit(stream, problem, item, split, item.end_split, next);
    MergeItem(problem, item, next, merged);
  }
  StoreItem(problem, item, merged);
}

// Splits of items side by side: every item gets the same number of slots of the same size.
struct SplitPlan {
  int64_t splits = 0;
  int64_t slot_floats = 0;
};

SplitPlan PlanSplits(const Problem& problem, int64_t num_items) {
  SplitPlan plan;
  int64_t queries = 0;
  for (int64_t i = 0; i < num_items; i += problem.layout.num_kv_heads) {
    const Item item = ItemAt(problem, i);
    plan.splits = std::max<int64_t>(plan.splits, item.end_split - item.first_split);
    queries = std::max<int64_t>(queries, item.num_queries);
  }
  plan.slot_floats = queries * problem.group() * problem.stride();
  return plan;
}

void RunSplitItems(const Stream& stream, const Problem& problem, int64_t items,
                   const SplitPlan& plan, float* scratch) {
  const auto slot = [&](int64_t item, int64_t split) {
    return scratch + (item * plan.splits + split) * plan.slot_floats;
  };
  // Runs of splits: a thread that stays in one sequence can fetch ahead.
  const int64_t pieces = stream.pool().num_threads() * kItemsPerThread;
  const int64_t run = std::max<int64_t>(1, items * plan.splits / pieces);
  const int64_t runs = CeilDiv(plan.splits, run);
  stream.pool().ParallelFor(static_cast<size_t>(items * runs), [&](size_t index, int) {
    const int64_t i = static_cast<int64_t>(index) / runs;
    const int64_t first = static_cast<int64_t>(index) % runs * run;
    const Item item = ItemAt(problem, i);
    const auto begin = static_cast<int32_t>(item.first_split + first);
    const auto end = static_cast<int32_t>(std::min<int64_t>(item.end_split, begin + run));
    for (int32_t split = begin; split < end; ++split) {
      AttendSplit(stream, problem, item, split, end, slot(i, split - item.first_split));
    }
  });
  ForRows(stream, items, plan.splits * plan.slot_floats, [&](int64_t i) {
    const Item item = ItemAt(problem, i);
    for (int32_t split = 1; split < item.end_split - item.first_split; ++split) {
      MergeItem(problem, item, slot(i, split), slot(i, 0));
    }
    StoreItem(problem, item, slot(i, 0));
  });
}

}  // namespace

void WriteKv(const Stream& stream, const KvLayout& layout, int layer,
             std::span<const AttentionSequence> sequences, const float* k, const float* v,
             int64_t stride) {
  for (const AttentionSequence& sequence : sequences) {
    const auto pages = static_cast<int64_t>(sequence.kv.page_table.size());
    HM_CHECK(int64_t{sequence.start} + sequence.count <= pages * layout.block_size,
             std::to_string(sequence.start + sequence.count) + " tokens on " +
                 std::to_string(pages) + " pages");
    const int64_t row_work = int64_t{4} * layout.num_kv_heads * layout.head_dim;
    ForRows(stream, sequence.count, row_work, [&](int64_t i) {
      const int64_t position = sequence.start + i;
      const auto page = static_cast<size_t>(
          sequence.kv.page_table[static_cast<size_t>(position / layout.block_size)]);
      StoreKvArgs args;
      args.page = sequence.kv.base + page * layout.page_bytes() + layout.k_offset(layer, 0);
      args.slot = static_cast<int32_t>(position % layout.block_size);
      args.block_size = layout.block_size;
      args.num_kv_heads = layout.num_kv_heads;
      args.head_dim = layout.head_dim;
      args.type = layout.type;
      args.k = k + (sequence.row + i) * stride;
      args.v = v + (sequence.row + i) * stride;
      stream.table().store_kv(args);
    });
  }
}

void Attention(const Stream& stream, const KvLayout& layout, int layer, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const float* q, int64_t q_stride,
               float* out, int64_t out_stride, std::span<float> scratch) {
  HM_CHECK(shape.head_dim == layout.head_dim && shape.num_heads % layout.num_kv_heads == 0,
           std::to_string(shape.num_heads) + " heads of " + std::to_string(shape.head_dim) +
               " over " + std::to_string(layout.num_kv_heads) + " KV heads of " +
               std::to_string(layout.head_dim));
  const Problem problem{layout, layer, shape, sequences, q, q_stride, out, out_stride};
  const int64_t items = problem.num_items();
  const int64_t threads = stream.pool().num_threads();
  const auto available = static_cast<int64_t>(scratch.size());
  if (threads > 1 && items < threads * kItemsPerThread) {
    const SplitPlan plan = PlanSplits(problem, items);
    if (plan.splits > 1 && items * plan.splits * plan.slot_floats <= available) {
      RunSplitItems(stream, problem, items, plan, scratch.data());
      return;
    }
  }
  HM_CHECK(available >= threads * 2 * problem.item_floats(),
           std::to_string(available) + " floats of scratch");
  stream.pool().ParallelFor(static_cast<size_t>(items), [&](size_t index, int thread) {
    RunWholeItem(stream, problem, static_cast<int64_t>(index),
                 scratch.data() + thread * 2 * problem.item_floats());
  });
}

size_t AttentionScratchFloats(const KvLayout& layout, const AttentionShape& shape, int64_t max_rows,
                              int64_t max_context, int num_threads) {
  const Problem problem{layout, 0, shape, {}, nullptr, 0, nullptr, 0};
  const int64_t whole = 2 * num_threads * problem.item_floats();
  if (num_threads == 1) return static_cast<size_t>(whole);
  const int64_t items = std::min(max_rows * layout.num_kv_heads, num_threads * kItemsPerThread);
  const int64_t splits = CeilDiv(max_context, kAttentionSplit);
  const int64_t split_floats = std::min(items * splits * problem.item_floats(), kMaxSplitFloats);
  return static_cast<size_t>(std::max(whole, split_floats));
}

}  // namespace halfmoon::kernels
