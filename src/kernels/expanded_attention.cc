// SPDX-License-Identifier: Apache-2.0
#include "kernels/expanded_attention.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/matmul.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// Latents that are expanded together: as many rows as the matmul shares a decoded weight among, and
// 128 KiB of them at c = 512.
constexpr int64_t kExpandRows = 64;
// Queries that attend between two merges: their state stays in L2 beside the keys of a split.
constexpr int64_t kAttendQueries = 64;
// Queries of an item, at most and where a step is cut further to give each thread its share. Each
// item expands for itself, which for 512 queries of DeepSeek-V3's heads is four fifths as much work
// as attending, and for 4096 a tenth.
constexpr int64_t kMaxItemQueries = 4096;
constexpr int64_t kMinItemQueries = 512;
// Below this the attend kernel has too few queries a head to share a load of keys among.
constexpr int64_t kMinExpandQueries = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t n) { return CeilDiv(n, kKvLane) * kKvLane; }

// What all items of one call share.
struct Problem {
  const Stream& stream;
  const KvLayout& layout;
  int layer;
  const ExpandedShape& shape;
  const ExpandedWeights& weights;
  std::span<const AttentionSequence> sequences;
  const Rows& q;
  const Rows& out;

  int64_t head_dim() const { return shape.nope_dim + shape.rope_dim; }
  /// Blocks of queries of a sequence, each with each head an item.
  int64_t blocks(const AttentionSequence& sequence) const {
    const int64_t wanted = CeilDiv(2 * int64_t{stream.pool().num_threads()}, shape.num_heads);
    return std::max(CeilDiv(sequence.count, kMaxItemQueries),
                    std::min(wanted, std::max<int64_t>(1, sequence.count / kMinItemQueries)));
  }
  int64_t num_items() const {
    int64_t total = 0;
    for (const AttentionSequence& s : sequences) total += blocks(s);
    return total * shape.num_heads;
  }
};

// A thread's scratch, as offsets in floats and then as what lies there. Rows are whole vectors.
struct Offsets {
  explicit Offsets(const ExpandedShape& shape)
      : key_rows(kExpandRows * RoundUp(shape.latent_dim)),
        keys(key_rows + kExpandRows * RoundUp(shape.nope_dim)),
        values(keys + kAttentionSplit * int64_t{shape.nope_dim + shape.rope_dim}),
        next(values + kAttentionSplit * RoundUp(shape.value_dim)),
        merged(next + kAttendQueries * AttendStateStride(shape.value_dim)) {}

  int64_t key_rows, keys, values, next, merged;
};

struct Buffers {
  Buffers(const Offsets& at, float* scratch)
      : latents(scratch),
        key_rows(scratch + at.key_rows),
        keys(scratch + at.keys),
        values(scratch + at.values),
        next(scratch + at.next),
        merged(scratch + at.merged) {}

  float* latents;   // [kExpandRows][c]
  float* key_rows;  // [kExpandRows][dn]
  float* keys;      // [kAttentionSplit / 16][dn + dr][16]
  float* values;    // [kAttentionSplit][dv], zero beyond dv
  float* next;      // states of one split, kAttendQueries of them
  float* merged;    // states of all queries of the item
};

int64_t FloatsOfThread(const ExpandedShape& shape, int64_t queries) {
  return Offsets(shape).merged + queries * AttendStateStride(shape.value_dim);
}

// One head and a block of consecutive queries of a sequence.
struct Item {
  const AttentionSequence* sequence;
  int64_t head;
  int64_t first_query;
  int64_t num_queries;
};

Item ItemAt(const Problem& problem, int64_t index) {
  const AttentionSequence* sequence = problem.sequences.data();
  int64_t block = index / problem.shape.num_heads;
  for (; block >= problem.blocks(*sequence); ++sequence) block -= problem.blocks(*sequence);
  // Last queries first: they see the most.
  const int64_t blocks = problem.blocks(*sequence);
  block = blocks - 1 - block;
  const int64_t first = sequence->count * block / blocks;
  return {.sequence = sequence,
          .head = index % problem.shape.num_heads,
          .first_query = first,
          .num_queries = sequence->count * (block + 1) / blocks - first};
}

MatMulJob JobOf(const PackedMatrix& weight, const float* x, int64_t x_stride, int64_t rows,
                float* y, int64_t y_stride) {
  MatMulJob job;
  job.weight = &weight;
  job.x = {.f32 = x, .stride = x_stride};
  job.num_rows = rows;
  job.y = y;
  job.y_stride = y_stride;
  return job;
}

// Rows [rows, dn] into the leading dn of keys [rows / 16][dn + dr][16].
void TurnKeys(const Problem& problem, const float* from, int64_t rows, float* keys) {
  static constexpr int32_t kOnePage[] = {0};
  StageLatentArgs turned;
  turned.pages = reinterpret_cast<const std::byte*>(from);
  turned.page_table = kOnePage;
  turned.block_size = kExpandRows;
  turned.head_dim = problem.shape.nope_dim;
  turned.key_stride = static_cast<int32_t>(problem.head_dim());
  turned.type = KvType::kF32;
  turned.row_bytes = KvRowBytes(KvType::kF32, turned.head_dim);
  turned.count = static_cast<int32_t>(rows);
  turned.keys = keys;
  problem.stream.table().stage_latent(turned);
}

// Keys and values of `count` positions from `begin` on, which is a multiple of kAttentionSplit.
void ExpandSplit(const Problem& problem, const Item& item, int64_t begin, int64_t count,
                 const Buffers& buffers) {
  const ExpandedShape& shape = problem.shape;
  const auto head = static_cast<size_t>(item.head);
  const int64_t head_dim = problem.head_dim();
  const int64_t latent_stride = RoundUp(shape.latent_dim);
  const int64_t value_stride = RoundUp(shape.value_dim);
  StageLatentArgs staged;
  staged.pages = item.sequence->kv.base;
  staged.page_bytes = problem.layout.page_bytes();
  staged.page_table = item.sequence->kv.page_table.data();
  staged.row_offset = problem.layout.k_offset(problem.layer, 0);
  staged.row_bytes = problem.layout.k_row_bytes();
  staged.block_size = problem.layout.block_size;
  staged.head_dim = problem.layout.head_dim;
  staged.value_dim = shape.latent_dim;
  staged.value_stride = static_cast<int32_t>(latent_stride);
  staged.key_begin = shape.latent_dim;
  staged.key_stride = static_cast<int32_t>(head_dim);
  staged.type = problem.layout.k_type;
  staged.values = buffers.latents;
  for (int64_t first = 0; first < count; first += kExpandRows) {
    const int64_t rows = std::min(kExpandRows, count - first);
    float* keys = buffers.keys + first * head_dim;
    staged.first = static_cast<int32_t>(begin + first);
    staged.count = static_cast<int32_t>(rows);
    staged.keys = keys + shape.nope_dim * kKvLane;  // The rotated part of a key comes last.
    problem.stream.table().stage_latent(staged);
    MatMulOnThread(problem.stream, JobOf(problem.weights.key[head], buffers.latents, latent_stride,
                                         rows, buffers.key_rows, shape.nope_dim));
    MatMulOnThread(problem.stream,
                   JobOf(problem.weights.value[head], buffers.latents, latent_stride, rows,
                         buffers.values + first * value_stride, value_stride));
    TurnKeys(problem, buffers.key_rows, rows, keys);
  }
}

// States of queries [first, first + count) of the item over the `positions` of the split at
// `begin`.
void AttendExpanded(const Problem& problem, const Item& item, int64_t first, int64_t count,
                    int64_t begin, int64_t positions, const Buffers& buffers, float* state) {
  static constexpr int32_t kOnePage[] = {0};
  const int64_t query = item.first_query + first;
  AttendArgs args;
  args.pages = reinterpret_cast<const std::byte*>(buffers.keys);
  args.page_table = kOnePage;
  args.v_offset = static_cast<size_t>(buffers.values - buffers.keys) * sizeof(float);
  args.block_size = kAttentionSplit;
  args.head_dim = static_cast<int32_t>(problem.head_dim());
  args.value_dim = static_cast<int32_t>(RoundUp(problem.shape.value_dim));
  args.k_type = args.v_type = KvType::kF32;
  args.k_row_bytes = KvRowBytes(KvType::kF32, args.head_dim);
  args.v_row_bytes = KvRowBytes(KvType::kF32, args.value_dim);
  args.group = 1;
  args.scale = problem.shape.scale;
  args.q = problem.q.row(item.sequence->row + query) + item.head * problem.head_dim();
  args.q_stride = problem.q.stride;
  // Positions count from the begin of the split.
  args.position = static_cast<int32_t>(item.sequence->start + query - begin);
  args.num_queries = static_cast<int32_t>(count);
  args.end = static_cast<int32_t>(positions);
  args.state = state;
  problem.stream.table().attend(args);
}

void RunItem(const Problem& problem, int64_t index, const Buffers& buffers) {
  const Item item = ItemAt(problem, index);
  const int64_t value_dim = problem.shape.value_dim;
  const int64_t stride = AttendStateStride(value_dim);
  const int64_t start = item.sequence->start + item.first_query;
  const int64_t num_positions = start + item.num_queries;
  std::fill_n(buffers.values, kAttentionSplit * RoundUp(value_dim), 0.0f);
  for (int64_t begin = 0; begin < num_positions; begin += kAttentionSplit) {
    const int64_t positions = std::min<int64_t>(kAttentionSplit, num_positions - begin);
    ExpandSplit(problem, item, begin, positions, buffers);
    int64_t first = std::max<int64_t>(0, begin - start);  // Earlier queries do not see the split.
    while (first < item.num_queries) {
      const int64_t count = std::min(kAttendQueries, item.num_queries - first);
      float* merged = buffers.merged + first * stride;
      float* state = begin == 0 ? merged : buffers.next;
      AttendExpanded(problem, item, first, count, begin, positions, buffers, state);
      if (begin > 0) problem.stream.table().merge_states(value_dim, count, state, merged);
      first += count;
    }
  }
  for (int64_t i = 0; i < item.num_queries; ++i) {
    problem.stream.table().store_state(
        value_dim, buffers.merged + i * stride,
        problem.out.row(item.sequence->row + item.first_query + i) + item.head * value_dim);
  }
}

}  // namespace

bool ExpansionPays(const ExpandedShape& shape, int64_t count, int64_t start) {
  if (count < kMinExpandQueries) return false;
  // Multiply-adds a head. Both forms pay c (dn + dv) for each of the chunk's own tokens: one to
  // absorb its query and to bring its value back, the other to expand its key and value. Expanding
  // pays the same for each earlier position too, and saves on each pair of query and key: dn + dr +
  // dv instead of (c + dr) + c. With DeepSeek-V3's 128 + 64 + 128 and c = 512 a chunk deep inside a
  // text has to have 171 tokens.
  const int64_t pairs = count * start + count * (count + 1) / 2;
  const int64_t saved = 2 * int64_t{shape.latent_dim} - shape.nope_dim - shape.value_dim;
  const int64_t expansion = int64_t{shape.latent_dim} * (shape.nope_dim + shape.value_dim);
  return pairs * saved > start * expansion;
}

void ExpandedAttention(const Stream& stream, const KvLayout& layout, int layer,
                       const ExpandedShape& shape, const ExpandedWeights& weights,
                       std::span<const AttentionSequence> sequences, const Rows& q, const Rows& out,
                       std::span<float> scratch) {
  HM_CHECK(layout.kind == KvKind::kLatent && layout.value_dim == shape.latent_dim &&
           layout.head_dim == shape.latent_dim + shape.rope_dim);
  const auto heads = static_cast<size_t>(shape.num_heads);
  HM_CHECK(weights.key.size() == heads && weights.value.size() == heads);
  const Problem problem{stream, layout, layer, shape, weights, sequences, q, out};
  int64_t queries = 0;
  for (const AttentionSequence& s : sequences) {
    queries = std::max(queries, CeilDiv(s.count, problem.blocks(s)));
  }
  const int64_t floats = FloatsOfThread(shape, queries);
  HM_CHECK(static_cast<int64_t>(scratch.size()) >= stream.pool().num_threads() * floats,
           std::to_string(scratch.size()) + " floats of scratch");
  const Offsets offsets(shape);
  stream.pool().ParallelFor(static_cast<size_t>(problem.num_items()),
                            [&](size_t index, int thread) {
                              RunItem(problem, static_cast<int64_t>(index),
                                      Buffers(offsets, scratch.data() + thread * floats));
                            });
}

size_t ExpandedScratchFloats(const ExpandedShape& shape, int64_t max_rows, int num_threads) {
  return static_cast<size_t>(num_threads) *
         static_cast<size_t>(FloatsOfThread(shape, std::min(max_rows, kMaxItemQueries)));
}

}  // namespace halfmoon::kernels
