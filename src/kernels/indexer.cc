// SPDX-License-Identifier: Apache-2.0
#include "kernels/indexer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <string>

#include "base/check.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// Positions that one task scores: enough to pay for handing it out, few enough to spread a single
// query over threads.
constexpr int32_t kScorePositions = 512;
// Bound of the scratch: 16 MiB of scores and as much for their ranks.
constexpr int64_t kMaxScores = 4 << 20;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Rows whose scores are in memory together.
int64_t RowsTogether(int64_t max_rows, int64_t context) {
  return std::clamp<int64_t>(kMaxScores / context, 1, max_rows);
}

/// A row of the step that has more positions than it may keep.
struct Query {
  const AttentionSequence* sequence;
  int64_t row;
  int32_t num_positions;
};

/// An integer that is larger for a better score: both zeros are one, NaN is -infinity.
uint32_t RankOf(float score) {
  constexpr uint32_t kSign = 0x80000000u;
  constexpr uint32_t kInfinity = 0x7F800000u;
  uint32_t bits = std::bit_cast<uint32_t>(score);
  if ((bits & ~kSign) > kInfinity) bits = kSign | kInfinity;
  if (bits == kSign) bits = 0;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

/// The `count` best of scores[0 .. n), count at most n, in ascending position into `positions`;
/// `ranks` has n entries. The rank of the last one chosen is found digit by digit, from counts of
/// the ranks that begin with the digits found: few passes over n, and nothing is sorted.
void ChooseBest(const float* scores, int32_t n, int32_t count, uint32_t* ranks,
                int32_t* positions) {
  constexpr int kDigitBits = 11;
  constexpr uint32_t kDigits = 1u << kDigitBits;
  for (int32_t p = 0; p < n; ++p) ranks[p] = RankOf(scores[p]);
  uint32_t last = 0;     // the digits found
  uint32_t known = 0;    // mask of them
  int32_t left = count;  // still to be chosen among ranks that begin with them
  for (int shift = 32; shift > 0;) {
    const int bits = std::min(shift, kDigitBits);
    shift -= bits;
    std::array<int32_t, kDigits> counts{};
    for (int32_t p = 0; p < n; ++p) {
      if ((ranks[p] & known) == last) ++counts[(ranks[p] >> shift) & ((1u << bits) - 1)];
    }
    uint32_t digit = (1u << bits) - 1;
    for (; digit > 0 && counts[digit] < left; --digit) left -= counts[digit];
    last |= digit << shift;
    known |= ((1u << bits) - 1) << shift;
  }
  int32_t chosen = 0;
  for (int32_t p = 0; chosen < count; ++p) {
    if (ranks[p] < last) continue;
    // Of those equal to the last, the earliest.
    if (ranks[p] == last && left-- <= 0) continue;
    positions[chosen++] = p;
  }
}

void ScoreQueries(const Stream& stream, const KvLayout& layout, int layer,
                  const IndexerShape& shape, std::span<const Query> queries, const Rows& q,
                  const Rows& w, float* scores, int64_t stride) {
  const int64_t runs = (stride + kScorePositions - 1) / kScorePositions;
  stream.pool().ParallelFor(queries.size() * static_cast<size_t>(runs), [&](size_t index, int) {
    const Query& query = queries[index / static_cast<size_t>(runs)];
    const auto begin = static_cast<int32_t>(index % static_cast<size_t>(runs)) * kScorePositions;
    if (begin >= query.num_positions) return;
    IndexScoreArgs args;
    args.pages = query.sequence->kv.base;
    args.page_bytes = layout.page_bytes();
    args.page_table = query.sequence->kv.page_table.data();
    args.index_offset = layout.index_offset(layer);
    args.row_bytes = layout.index_row_bytes();
    args.block_size = layout.block_size;
    args.num_heads = shape.num_heads;
    args.index_dim = shape.head_dim;
    args.type = layout.k_type;
    args.scale = shape.scale;
    args.q = q.row(query.row);
    args.w = w.row(query.row);
    args.begin = begin;
    args.end = std::min(query.num_positions, begin + kScorePositions);
    args.scores = scores + static_cast<int64_t>(index / static_cast<size_t>(runs)) * stride + begin;
    stream.table().index_scores(args);
  });
}

}  // namespace

void ChooseKeys(const Stream& stream, const KvLayout& layout, int layer, const IndexerShape& shape,
                std::span<const AttentionSequence> sequences, const Rows& q, const Rows& w,
                const IndexerOutput& out, std::span<float> scratch) {
  int64_t context = 0;
  int64_t rows = 0;
  for (const AttentionSequence& sequence : sequences) {
    context = std::max<int64_t>(context, sequence.start + sequence.count);
    rows += sequence.count;
  }
  context = RoundUp(context, kKvLane);
  const int64_t together =
      std::min<int64_t>(rows, static_cast<int64_t>(scratch.size()) / 2 / context);
  HM_CHECK(together >= 1, std::to_string(scratch.size()) + " floats of scratch");
  float* scores = scratch.data();
  auto* ranks = reinterpret_cast<uint32_t*>(scores + together * context);

  constexpr size_t kMaxTogether = 256;
  Query queries[kMaxTogether];
  size_t count = 0;
  const auto flush = [&] {
    const std::span<const Query> batch(queries, count);
    ScoreQueries(stream, layout, layer, shape, batch, q, w, scores, context);
    stream.pool().ParallelFor(count, [&](size_t i, int) {
      const Query& query = batch[i];
      float* own = scores + static_cast<int64_t>(i) * context;
      if (out.scores != nullptr) {
        std::copy_n(own, query.num_positions, out.scores + query.row * out.scores_stride);
      }
      ChooseBest(own, query.num_positions, out.counts[query.row],
                 ranks + static_cast<int64_t>(i) * context, out.positions + query.row * out.stride);
    });
    count = 0;
  };
  for (const AttentionSequence& sequence : sequences) {
    for (int32_t i = 0; i < sequence.count; ++i) {
      const int64_t row = sequence.row + i;
      const int32_t num_positions = sequence.start + i + 1;
      out.counts[row] = std::min(shape.top_k, num_positions);
      if (num_positions <= shape.top_k && out.scores == nullptr) {
        std::iota(out.positions + row * out.stride,
                  out.positions + row * out.stride + num_positions, 0);
        continue;
      }
      queries[count++] = {&sequence, row, num_positions};
      if (count == kMaxTogether || static_cast<int64_t>(count) == together) flush();
    }
  }
  if (count > 0) flush();
}

size_t IndexerScratchFloats(int64_t max_rows, int64_t max_context) {
  const int64_t context = RoundUp(max_context, kKvLane);
  return static_cast<size_t>(2 * RowsTogether(max_rows, context) * context);
}

}  // namespace halfmoon::kernels
