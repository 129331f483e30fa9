// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/attention_plan.h"
#include "kernels/for_rows.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// Below this many items a thread, splits of one item run on different threads.
constexpr int64_t kItemsPerThread = 8;
// Bound of the scratch for that; past it, items run whole.
constexpr int64_t kMaxSplitFloats = 4 << 20;

using Problem = AttentionProblem;
using Item = AttentionItem;

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
  args.k_row_bytes = layout.k_row_bytes();
  args.v_row_bytes = layout.v_row_bytes();
  args.block_size = layout.block_size;
  args.value_dim = problem.shape.head_dim;
  args.k_type = layout.k_type;
  args.v_type = layout.v_type;
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
void StageLatents(const Stream& stream, const Problem& problem, const Item& item, int32_t split,
                  float* stage) {
  const KvLayout& layout = problem.layout;
  const int32_t begin = split * kAttentionSplit;
  StageLatentArgs staged;
  staged.pages = item.sequence->kv.base;
  staged.page_bytes = layout.page_bytes();
  staged.page_table = item.sequence->kv.page_table.data();
  staged.row_offset = layout.k_offset(problem.layer, 0);
  staged.row_bytes = layout.k_row_bytes();
  staged.block_size = layout.block_size;
  staged.head_dim = layout.head_dim;
  staged.value_dim = layout.value_dim;
  staged.value_stride = static_cast<int32_t>(problem.staged_values());
  staged.key_stride = layout.head_dim;
  staged.type = layout.k_type;
  staged.to = problem.staged_type();
  staged.positions = item.chosen != nullptr ? item.chosen + begin : nullptr;
  staged.first = begin;
  staged.count = PositionsOf(item, split);
  staged.keys = stage;
  staged.values = stage + int64_t{kAttentionSplit} * layout.head_dim;
  stream.table().stage_latent(staged);
}

// The same for the K and V of heads.
void StageHeads(const Stream& stream, const Problem& problem, const Item& item, int32_t split,
                float* stage) {
  const KvLayout& layout = problem.layout;
  StageHeadsArgs staged;
  staged.pages = item.sequence->kv.base;
  staged.page_bytes = layout.page_bytes();
  staged.page_table = item.sequence->kv.page_table.data();
  staged.k_offset = layout.k_offset(problem.layer, item.head_block);
  staged.v_offset = layout.v_offset(problem.layer, item.head_block);
  staged.k_row_bytes = layout.k_row_bytes();
  staged.v_row_bytes = layout.v_row_bytes();
  staged.block_size = layout.block_size;
  staged.head_dim = layout.head_dim;
  staged.k_type = layout.k_type;
  staged.v_type = layout.v_type;
  staged.first = split * kAttentionSplit;
  staged.count = PositionsOf(item, split);
  staged.keys = stage;
  staged.values = stage + int64_t{kAttentionSplit} * layout.head_dim;
  stream.table().stage_heads(staged);
}

void StageSplit(const Stream& stream, const Problem& problem, const Item& item, int32_t split,
                float* stage) {
  if (!problem.stages(item.num_queries)) return;
  if (problem.latent()) return StageLatents(stream, problem, item, split, stage);
  StageHeads(stream, problem, item, split, stage);
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
  args.k_type = args.v_type = problem.staged_type();
  args.k_row_bytes = KvRowBytes(args.k_type, args.head_dim);
  args.v_row_bytes = KvRowBytes(args.v_type, args.value_dim);
  args.window = problem.shape.sliding_window;
  args.end = PositionsOf(item, split);
  // Positions count from the begin of the split; a query with a choice sees all of it.
  args.position = item.chosen != nullptr ? args.end - 1 : args.position - split * kAttentionSplit;
  stream.table().attend(args);
}

// Requires that the split is staged, where the item stages.
void AttendSplit(const Stream& stream, const Problem& problem, const Item& item, Queries queries,
                 int32_t split, int32_t end_split, const float* stage, float* state) {
  if (problem.stages(item.num_queries)) {
    AttendStaged(stream, problem, item, queries, split, stage, state);
  } else {
    AttendHeads(stream, problem, item, queries, split, end_split, state);
  }
}

void MergeItem(const Stream& stream, const Problem& problem, const Item& item, const float* from,
               float* to) {
  stream.table().merge_states(problem.value_dim(), item.num_queries * problem.group(), from, to);
}

void StoreItem(const Stream& stream, const Problem& problem, const Item& item, const float* state) {
  const int64_t value_dim = problem.value_dim();
  for (int64_t i = 0; i < item.num_queries; ++i) {
    float* out = problem.out + (item.sequence->row + item.first_query + i) * problem.out_stride +
                 item.head_block * problem.group() * value_dim;
    for (int64_t h = 0; h < problem.group(); ++h) {
      stream.table().store_state(value_dim, state + (i * problem.group() + h) * problem.stride(),
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
    StageSplit(stream, problem, item, split, stage);
    const auto block = static_cast<int32_t>(problem.block_queries());
    for (int32_t first = 0; first < item.num_queries; first += block) {
      const Queries queries{first, std::min(block, item.num_queries - first)};
      float* to = merged + first * query_floats;
      float* state = split == item.first_split ? to : next;
      AttendSplit(stream, problem, item, queries, split, item.end_split, stage, state);
      if (state == to) continue;
      stream.table().merge_states(problem.value_dim(), queries.count * problem.group(), next, to);
    }
  }
  StoreItem(stream, problem, item, merged);
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
      StageSplit(stream, problem, item, split, stage);
      AttendSplit(stream, problem, item, {0, item.num_queries}, split, end, stage,
                  slot(i, split - item.first_split));
    }
  });
  ForRows(stream, items, plan.splits * plan.slot_floats, [&](int64_t i) {
    const Item item = ItemAt(problem, i);
    for (int32_t split = 1; split < item.end_split - item.first_split; ++split) {
      MergeItem(stream, problem, item, slot(i, split), slot(i, 0));
    }
    StoreItem(stream, problem, item, slot(i, 0));
  });
}

}  // namespace

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
  problem.bf16 = AttendsBf16(stream.isa(), layout);
  const int64_t threads = stream.pool().num_threads();
  if (problem.can_stage()) {
    problem.item_rows = kMaxItemRows;
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

bool AttendsBf16(Isa isa, const KvLayout& layout) {
  const bool latent = layout.kind == KvKind::kLatent;
  if (!KernelsFor(isa).attend_bf16 || layout.k_type != KvType::kBF16 ||
      layout.v_type != KvType::kBF16) {
    return false;
  }
  if (latent && layout.head_dim % kKvLane != 0) return false;
  return AttendsPairs(layout.head_dim, latent ? layout.value_dim : layout.head_dim);
}

size_t AttentionScratchFloats(const KvLayout& layout, const AttentionShape& shape, int64_t max_rows,
                              int64_t max_context, int num_threads) {
  Problem problem{layout, 0, shape, {}, nullptr, 0, nullptr, 0};
  if (problem.can_stage()) problem.item_rows = kMaxItemRows;
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
