// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "kernels/attention_state.h"
#include "kernels/for_rows.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// State rows (query x head) that attend together: enough to reuse keys and values from the cache,
// few enough that their states stay there too.
constexpr int64_t kItemRows = 64;
// State rows of an item over latents, where there are many: staging a split takes as long as
// attending to it from about ten rows.
constexpr int64_t kMaxLatentItemRows = 256;
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
  const KeySelection* selection = nullptr;
  int64_t item_rows = kItemRows;

  bool latent() const { return layout.kind == KvKind::kLatent; }
  /// Query heads that an item computes together: those of a KV head, or, where all share one
  /// latent, as many as an item has rows.
  int64_t group() const {
    return latent() ? std::gcd(int64_t{shape.num_heads}, kItemRows)
                    : shape.num_heads / layout.num_kv_heads;
  }
  int64_t head_blocks() const { return shape.num_heads / group(); }
  int64_t value_dim() const { return latent() ? layout.value_dim : shape.head_dim; }
  int64_t item_queries() const {
    return selection != nullptr ? 1 : std::max<int64_t>(1, item_rows / group());
  }
  /// Queries of an item that attend together.
  int64_t block_queries() const { return std::max<int64_t>(1, kItemRows / group()); }
  int64_t stride() const { return AttendStateStride(value_dim()); }
  int64_t block_floats() const { return block_queries() * group() * stride(); }
  int64_t item_floats() const { return item_queries() * group() * stride(); }
  /// Width of a staged value row: whole vectors.
  int64_t staged_values() const { return CeilDiv(value_dim(), kKvLane) * kKvLane; }
  /// Floats of a thread's staged split.
  int64_t stage_floats() const {
    return latent() ? kAttentionSplit * (shape.head_dim + staged_values()) : 0;
  }
  int64_t num_items() const {
    int64_t blocks = 0;
    for (const AttentionSequence& s : sequences) blocks += CeilDiv(s.count, item_queries());
    return blocks * head_blocks();
  }
};

// One (sequence, block of heads, block of queries) and the splits that its queries see.
struct Item {
  const AttentionSequence* sequence;
  int32_t head_block;
  int32_t first_query;
  int32_t num_queries;
  int32_t first_split;
  int32_t end_split;
  int32_t num_positions;  // positions 0 .. num_positions - 1 are seen by the last query
  const int32_t* chosen;  // of these, those that the query sees; null: all
};

Item ItemAt(const Problem& problem, int64_t index) {
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
  Item item;
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

// Some queries of an item, counted from its first.
struct Queries {
  int32_t first = 0;
  int32_t count = 0;
};

AttendArgs ArgsOf(const Problem& problem, const Item& item, Queries queries, float* state) {
  const int64_t first_row = item.sequence->row + item.first_query + queries.first;
  AttendArgs args;
  args.head_dim = problem.shape.head_dim;
  args.group = static_cast<int32_t>(problem.group());
  args.scale = problem.shape.scale;
  args.q = problem.q + first_row * problem.q_stride +
           item.head_block * problem.group() * problem.shape.head_dim;
  args.q_stride = problem.q_stride;
  args.position = item.sequence->start + item.first_query + queries.first;
  args.num_queries = queries.count;
  args.state = state;
  return args;
}

// `end_split`: the same thread goes on with the splits up to there.
void AttendHeads(const Stream& stream, const Problem& problem, const Item& item, Queries queries,
                 int32_t split, int32_t end_split, float* state) {
  const KvLayout& layout = problem.layout;
  AttendArgs args = ArgsOf(problem, item, queries, state);
  args.pages = item.sequence->kv.base;
  args.page_bytes = layout.page_bytes();
  args.page_table = item.sequence->kv.page_table.data();
  args.k_offset = layout.k_offset(problem.layer, item.head_block);
  args.v_offset = layout.v_offset(problem.layer, item.head_block);
  args.block_size = layout.block_size;
  args.value_dim = problem.shape.head_dim;
  args.type = layout.type;
  args.window = problem.shape.sliding_window;
  args.begin = split * kAttentionSplit;
  args.end = std::min(item.num_positions, (split + 1) * kAttentionSplit);
  args.fetch_end = std::min(item.num_positions, end_split * kAttentionSplit);
  stream.table().attend(args);
}

int32_t PositionsOf(const Item& item, int32_t split) {
  return std::min(item.num_positions - split * kAttentionSplit, kAttentionSplit);
}

// The split's latent rows become K and V of one KV head in `stage`, one page of a split's size, for
// the kernel that attends to heads.
void StageSplit(const Stream& stream, const Problem& problem, const Item& item, int32_t split,
                float* stage) {
  const KvLayout& layout = problem.layout;
  const int32_t begin = split * kAttentionSplit;
  StageLatentArgs staged;
  staged.pages = item.sequence->kv.base;
  staged.page_bytes = layout.page_bytes();
  staged.page_table = item.sequence->kv.page_table.data();
  staged.row_offset = layout.k_offset(problem.layer, 0);
  staged.block_size = layout.block_size;
  staged.head_dim = layout.head_dim;
  staged.value_dim = layout.value_dim;
  staged.value_stride = static_cast<int32_t>(problem.staged_values());
  staged.key_stride = layout.head_dim;
  staged.type = layout.type;
  staged.positions = item.chosen != nullptr ? item.chosen + begin : nullptr;
  staged.first = begin;
  staged.count = PositionsOf(item, split);
  staged.keys = stage;
  staged.values = stage + int64_t{kAttentionSplit} * layout.head_dim;
  stream.table().stage_latent(staged);
}

void AttendStaged(const Stream& stream, const Problem& problem, const Item& item, Queries queries,
                  int32_t split, const float* stage, float* state) {
  static constexpr int32_t kOnePage[] = {0};
  AttendArgs args = ArgsOf(problem, item, queries, state);
  args.pages = reinterpret_cast<const std::byte*>(stage);
  args.page_table = kOnePage;
  args.v_offset = static_cast<size_t>(kAttentionSplit * problem.layout.head_dim) * sizeof(float);
  args.block_size = kAttentionSplit;
  args.value_dim = static_cast<int32_t>(problem.staged_values());
  args.type = KvType::kF32;
  args.end = PositionsOf(item, split);
  args.fetch_end = args.end;
  // Positions count from the begin of the split; a query with a choice sees all of it.
  args.position = item.chosen != nullptr ? args.end - 1 : args.position - split * kAttentionSplit;
  stream.table().attend(args);
}

// Requires that the split is staged, where the pages hold latents.
void AttendSplit(const Stream& stream, const Problem& problem, const Item& item, Queries queries,
                 int32_t split, int32_t end_split, const float* stage, float* state) {
  if (problem.latent()) {
    AttendStaged(stream, problem, item, queries, split, stage, state);
  } else {
    AttendHeads(stream, problem, item, queries, split, end_split, state);
  }
}

void MergeItem(const Problem& problem, const Item& item, const float* from, float* to) {
  MergeStates(problem.value_dim(), item.num_queries * problem.group(), from, to);
}

void StoreItem(const Problem& problem, const Item& item, const float* state) {
  const int64_t value_dim = problem.value_dim();
  for (int64_t i = 0; i < item.num_queries; ++i) {
    float* out = problem.out + (item.sequence->row + item.first_query + i) * problem.out_stride +
                 item.head_block * problem.group() * value_dim;
    for (int64_t h = 0; h < problem.group(); ++h) {
      StoreState(value_dim, state + (i * problem.group() + h) * problem.stride(),
                 out + h * value_dim);
    }
  }
}

void RunWholeItem(const Stream& stream, const Problem& problem, int64_t index, float* scratch) {
  const Item item = ItemAt(problem, index);
  float* stage = scratch;
  float* next = stage + problem.stage_floats();
  float* merged = next + problem.block_floats();
  const int64_t query_floats = problem.group() * problem.stride();
  for (int32_t split = item.first_split; split < item.end_split; ++split) {
    if (problem.latent()) StageSplit(stream, problem, item, split, stage);
    const auto block = static_cast<int32_t>(problem.block_queries());
    for (int32_t first = 0; first < item.num_queries; first += block) {
      const Queries queries{first, std::min(block, item.num_queries - first)};
      float* to = merged + first * query_floats;
      float* state = split == item.first_split ? to : next;
      AttendSplit(stream, problem, item, queries, split, item.end_split, stage, state);
      if (state == to) continue;
      MergeStates(problem.value_dim(), queries.count * problem.group(), next, to);
    }
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
  for (int64_t i = 0; i < num_items; i += problem.head_blocks()) {
    const Item item = ItemAt(problem, i);
    plan.splits = std::max<int64_t>(plan.splits, item.end_split - item.first_split);
    queries = std::max<int64_t>(queries, item.num_queries);
  }
  plan.slot_floats = queries * problem.group() * problem.stride();
  return plan;
}

void RunSplitItems(const Stream& stream, const Problem& problem, int64_t items,
                   const SplitPlan& plan, float* scratch) {
  float* slots = scratch + stream.pool().num_threads() * problem.stage_floats();
  const auto slot = [&](int64_t item, int64_t split) {
    return slots + (item * plan.splits + split) * plan.slot_floats;
  };
  // Runs of splits: a thread that stays in one sequence can fetch ahead.
  const int64_t pieces = stream.pool().num_threads() * kItemsPerThread;
  const int64_t run = std::max<int64_t>(1, items * plan.splits / pieces);
  const int64_t runs = CeilDiv(plan.splits, run);
  stream.pool().ParallelFor(static_cast<size_t>(items * runs), [&](size_t index, int thread) {
    const int64_t i = static_cast<int64_t>(index) / runs;
    const int64_t first = static_cast<int64_t>(index) % runs * run;
    const Item item = ItemAt(problem, i);
    const auto begin = static_cast<int32_t>(item.first_split + first);
    const auto end = static_cast<int32_t>(std::min<int64_t>(item.end_split, begin + run));
    float* stage = scratch + thread * problem.stage_floats();
    for (int32_t split = begin; split < end; ++split) {
      if (problem.latent()) StageSplit(stream, problem, item, split, stage);
      AttendSplit(stream, problem, item, {0, item.num_queries}, split, end, stage,
                  slot(i, split - item.first_split));
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

void CheckPages(const KvLayout& layout, const AttentionSequence& sequence) {
  const auto pages = static_cast<int64_t>(sequence.kv.page_table.size());
  HM_CHECK(int64_t{sequence.start} + sequence.count <= pages * layout.block_size,
           std::to_string(sequence.start + sequence.count) + " tokens on " + std::to_string(pages) +
               " pages");
}

std::byte* PageOf(const KvLayout& layout, const AttentionSequence& sequence, int64_t position) {
  const auto page = static_cast<size_t>(
      sequence.kv.page_table[static_cast<size_t>(position / layout.block_size)]);
  return sequence.kv.base + page * layout.page_bytes();
}

}  // namespace

void WriteKv(const Stream& stream, const KvLayout& layout, int layer,
             std::span<const AttentionSequence> sequences, const Rows& k, const Rows& v) {
  for (const AttentionSequence& sequence : sequences) {
    CheckPages(layout, sequence);
    const int64_t row_work = int64_t{4} * layout.num_kv_heads * layout.head_dim;
    ForRows(stream, sequence.count, row_work, [&](int64_t i) {
      const int64_t position = sequence.start + i;
      StoreKvArgs args;
      args.page = PageOf(layout, sequence, position) + layout.k_offset(layer, 0);
      args.slot = static_cast<int32_t>(position % layout.block_size);
      args.block_size = layout.block_size;
      args.num_kv_heads = layout.num_kv_heads;
      args.head_dim = layout.head_dim;
      args.type = layout.type;
      args.k = k.row(sequence.row + i);
      args.v = v.row(sequence.row + i);
      stream.table().store_kv(args);
    });
  }
}

void WriteLatentKv(const Stream& stream, const KvLayout& layout, int layer,
                   std::span<const AttentionSequence> sequences, const Rows& kv,
                   const Rows& index_keys) {
  for (const AttentionSequence& sequence : sequences) {
    CheckPages(layout, sequence);
    ForRows(stream, sequence.count, int64_t{4} * layout.head_dim, [&](int64_t i) {
      const int64_t position = sequence.start + i;
      std::byte* page = PageOf(layout, sequence, position);
      StoreLatentArgs args;
      args.slot = static_cast<int32_t>(position % layout.block_size);
      args.row = page + layout.k_offset(layer, 0) +
                 static_cast<size_t>(args.slot) * static_cast<size_t>(layout.head_dim) *
                     layout.element_bytes();
      args.head_dim = layout.head_dim;
      args.index_keys = page + layout.index_offset(layer);
      args.index_dim = layout.index_dim;
      args.type = layout.type;
      args.kv = kv.row(sequence.row + i);
      args.index_key = layout.index_dim > 0 ? index_keys.row(sequence.row + i) : nullptr;
      stream.table().store_latent(args);
    });
  }
}

void Attention(const Stream& stream, const KvLayout& layout, int layer, const AttentionShape& shape,
               std::span<const AttentionSequence> sequences, const Rows& q, const Rows& out,
               std::span<float> scratch, const KeySelection* selection) {
  HM_CHECK(shape.head_dim == layout.head_dim && shape.num_heads % layout.num_kv_heads == 0,
           std::to_string(shape.num_heads) + " heads of " + std::to_string(shape.head_dim) +
               " over " + std::to_string(layout.num_kv_heads) + " KV heads of " +
               std::to_string(layout.head_dim));
  // A choice of keys and latent pages go together: other pages cannot be read position by position.
  HM_CHECK(layout.kind == KvKind::kLatent ? shape.sliding_window == 0 : selection == nullptr);
  Problem problem{layout,   layer,    shape,      sequences, q.data,
                  q.stride, out.data, out.stride, selection};
  const int64_t threads = stream.pool().num_threads();
  if (problem.latent()) {
    problem.item_rows = kMaxLatentItemRows;
    while (problem.item_rows > kItemRows && problem.num_items() < threads * kItemsPerThread) {
      problem.item_rows /= 2;
    }
  }
  const int64_t items = problem.num_items();
  const int64_t stages = threads * problem.stage_floats();
  const auto available = static_cast<int64_t>(scratch.size());
  if (threads > 1 && items < threads * kItemsPerThread) {
    const SplitPlan plan = PlanSplits(problem, items);
    if (plan.splits > 1 && stages + items * plan.splits * plan.slot_floats <= available) {
      RunSplitItems(stream, problem, items, plan, scratch.data());
      return;
    }
  }
  const int64_t item_scratch =
      problem.stage_floats() + problem.block_floats() + problem.item_floats();
  HM_CHECK(available >= threads * item_scratch, std::to_string(available) + " floats of scratch");
  stream.pool().ParallelFor(static_cast<size_t>(items), [&](size_t index, int thread) {
    RunWholeItem(stream, problem, static_cast<int64_t>(index),
                 scratch.data() + thread * item_scratch);
  });
}

size_t AttentionScratchFloats(const KvLayout& layout, const AttentionShape& shape, int64_t max_rows,
                              int64_t max_context, int num_threads) {
  Problem problem{layout, 0, shape, {}, nullptr, 0, nullptr, 0};
  if (problem.latent()) problem.item_rows = kMaxLatentItemRows;
  const int64_t whole =
      num_threads * (problem.stage_floats() + problem.block_floats() + problem.item_floats());
  problem.item_rows = kItemRows;
  if (num_threads == 1) return static_cast<size_t>(whole);
  const int64_t items = std::min(max_rows * problem.head_blocks(), num_threads * kItemsPerThread);
  const int64_t splits = CeilDiv(max_context, kAttentionSplit);
  const int64_t split_floats = num_threads * problem.stage_floats() +
                               std::min(items * splits * problem.item_floats(), kMaxSplitFloats);
  return static_cast<size_t>(std::max(whole, split_floats));
}

}  // namespace halfmoon::kernels
