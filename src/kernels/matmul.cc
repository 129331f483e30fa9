// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/registry.h"

namespace halfmoon::kernels {
namespace {

// Jobs planned together; more run as further batches. 256 covers the experts of any known layer and
// keeps the plan on the stack.
constexpr size_t kMaxPlannedJobs = 256;
// Rows of a piece at most, and at least where there are more: fewer weights would be reused from
// the cache.
constexpr int64_t kMaxPieceRows = 256;
constexpr int64_t kMinPieceRows = 32;
// Weights of a piece that several blocks of rows walk over stay in a core's L2.
constexpr int64_t kMaxPieceBytes = 512 * 1024;
// Tiles of a piece are a multiple of this where they can be: kernels take up to 4 at once.
constexpr int64_t kTilesTogether = 4;
// Cycles below which handing out a piece costs more than it balances.
constexpr int64_t kMinPieceCycles = 20'000;
constexpr int64_t kPiecesPerThread = 8;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The tiles of one job that lie on one shard's node, cut into row_chunks x tile_chunks pieces.
struct PlannedJob {
  const MatMulJob* job;
  int64_t tile_begin;
  int64_t tile_end;
  int64_t rows;   // of a piece
  int64_t tiles;  // of a piece
  int64_t tile_chunks;
  int64_t pieces;
  int64_t piece_cycles;
};

// Rough cost of one tile with `rows` rows; only proportions matter.
int64_t TileCycles(const MatMulJob& job, int64_t rows) {
  const int64_t per_row = job.x.f32 != nullptr ? job.weight->cols() : job.weight->cols() / 2;
  return static_cast<int64_t>(job.weight->tile_bytes()) / 4 + rows * per_row;
}

// Pieces of about target_cycles. Rows are cut first: a piece interleaves its activations, so the
// fewer pieces share rows the better.
PlannedJob Plan(const MatMulJob& job, int64_t tile_begin, int64_t tile_end, int64_t target_cycles) {
  PlannedJob plan;
  plan.job = &job;
  plan.tile_begin = tile_begin;
  plan.tile_end = tile_end;
  const int64_t num_tiles = tile_end - tile_begin;
  int64_t max_tiles = num_tiles;
  if (job.num_rows > 8) {
    max_tiles =
        std::max(kTilesTogether, kMaxPieceBytes / static_cast<int64_t>(job.weight->tile_bytes()));
  }
  const int64_t tiles_together = CeilDiv(num_tiles, CeilDiv(num_tiles, max_tiles));
  const int64_t row_cycles = TileCycles(job, kMinPieceRows) * tiles_together / kMinPieceRows;
  const int64_t rows =
      std::clamp(target_cycles / std::max<int64_t>(1, row_cycles), kMinPieceRows, kMaxPieceRows);
  const int64_t row_chunks = CeilDiv(job.num_rows, rows);
  plan.rows = CeilDiv(job.num_rows, row_chunks);
  const int64_t tile_cycles = TileCycles(job, plan.rows);
  const int64_t wanted = std::min(CeilDiv(target_cycles, tile_cycles), tiles_together);
  plan.tiles = std::min(CeilDiv(wanted, kTilesTogether) * kTilesTogether, num_tiles);
  plan.tile_chunks = CeilDiv(num_tiles, plan.tiles);
  plan.pieces = row_chunks * plan.tile_chunks;
  plan.piece_cycles = plan.tiles * tile_cycles;
  return plan;
}

MatMulTilesFn KernelOf(const Stream& stream, const MatMulJob& job) {
  const auto format = static_cast<size_t>(job.weight->format());
  if (job.x.bf16.x != nullptr) {
    const MatMulTable* table = stream.table().matmul_bf16;
    return table != nullptr ? table->of[format] : nullptr;
  }
  return job.x.f32 != nullptr ? stream.table().matmul_f32->of[format]
                              : stream.table().matmul_int8->of[format];
}

/// `num_rows` rows of the job from row_begin on.
MatMulArgs ArgsOf(const MatMulJob& job, int64_t row_begin, int64_t num_rows) {
  const PackedMatrix& weight = *job.weight;
  MatMulArgs args;
  args.tiles = weight.tile(0);
  args.tile_bytes = weight.tile_bytes();
  args.quant_bytes = weight.quant_bytes();
  args.n = weight.rows();
  args.k = weight.cols();
  args.zero = weight.zero();
  args.x = job.x.f32;
  args.x_stride = job.x.stride;
  args.q = job.x.int8.q;
  args.scale = job.x.int8.scale;
  args.sum16 = job.x.int8.sum16;
  args.groups = job.x.int8.groups;
  args.bf16 = job.x.bf16.x;
  args.bf16_stride = job.x.bf16.stride;
  args.row_index = job.row_index != nullptr ? job.row_index + row_begin : nullptr;
  args.row_begin = row_begin;
  args.num_rows = num_rows;
  args.y = job.y + row_begin * job.y_stride;
  args.y_stride = job.y_stride;
  return args;
}

void RunPiece(const Stream& stream, const PlannedJob& plan, int64_t piece) {
  const MatMulJob& job = *plan.job;
  const int64_t row_begin = piece / plan.tile_chunks * plan.rows;
  const int64_t tile_begin = plan.tile_begin + piece % plan.tile_chunks * plan.tiles;
  const MatMulArgs args = ArgsOf(job, row_begin, std::min(plan.rows, job.num_rows - row_begin));
  // Rounding the tiles of a piece up can leave the last ones empty.
  const int64_t tile_end = std::min(tile_begin + plan.tiles, plan.tile_end);
  if (args.num_rows > 0 && tile_begin < tile_end) {
    KernelOf(stream, job)(args, tile_begin, tile_end);
  }
}

void CheckJob(const Stream& stream, const MatMulJob& job) {
  HM_CHECK(KernelOf(stream, job) != nullptr,
           std::string(job.x.bf16.x != nullptr ? "bf16" : "int8") + " activations for " +
               std::string(WeightFormatName(job.weight->format())) + " on " +
               std::string(IsaName(stream.isa())));
  HM_CHECK(job.x.f32 != nullptr || job.x.bf16.x != nullptr ||
               job.x.int8.groups * kGroup == job.weight->cols(),
           std::to_string(job.x.int8.groups) + " groups of activations for " +
               std::to_string(job.weight->cols()) + " inputs");
}

void RunBatch(const Stream& stream, std::span<const MatMulJob> jobs) {
  int64_t total_cycles = 0;
  for (const MatMulJob& job : jobs) {
    total_cycles += TileCycles(job, job.num_rows) * job.weight->num_tiles();
  }
  const int64_t threads = stream.pool().num_threads();
  const int64_t target =
      threads == 1 ? total_cycles
                   : std::max(kMinPieceCycles, total_cycles / (threads * kPiecesPerThread));
  for (const MatMulJob& job : jobs) {
    if (job.num_rows > 0 && job.weight->rows() > 0) CheckJob(stream, job);
  }
  std::array<PlannedJob, kMaxPlannedJobs> plans;
  std::array<int64_t, kMaxPlannedJobs + 1> first_piece;
  std::array<size_t, ThreadLayout::kMaxShards> shard_ends;
  first_piece[0] = 0;
  size_t count = 0;
  const ThreadPool& pool = stream.pool();
  for (size_t shard = 0; shard < pool.num_shards(); ++shard) {
    const size_t first = count;
    for (const MatMulJob& job : jobs) {
      const auto num_tiles = static_cast<size_t>(job.weight->num_tiles());
      const auto begin = static_cast<int64_t>(pool.ShardBegin(num_tiles, shard));
      const auto end = static_cast<int64_t>(pool.ShardBegin(num_tiles, shard + 1));
      if (job.num_rows > 0 && begin < end) plans[count++] = Plan(job, begin, end, target);
    }
    // Largest first: what is handed out last should be small. Ties keep the callers' order.
    std::sort(plans.begin() + static_cast<std::ptrdiff_t>(first),
              plans.begin() + static_cast<std::ptrdiff_t>(count),
              [](const PlannedJob& a, const PlannedJob& b) {
                return a.piece_cycles != b.piece_cycles ? a.piece_cycles > b.piece_cycles
                                                        : a.job < b.job;
              });
    for (size_t i = first; i < count; ++i) first_piece[i + 1] = first_piece[i] + plans[i].pieces;
    shard_ends[shard] = static_cast<size_t>(first_piece[count]);
  }
  const auto run = [&](size_t index, int) {
    const auto piece = static_cast<int64_t>(index);
    const auto* begin = first_piece.data();
    const auto plan = std::upper_bound(begin, begin + count + 1, piece) - begin - 1;
    RunPiece(stream, plans[static_cast<size_t>(plan)],
             piece - first_piece[static_cast<size_t>(plan)]);
  };
  stream.pool().ParallelForShards(std::span(shard_ends).first(pool.num_shards()), run);
}

}  // namespace

bool MultipliesBf16(Isa isa) { return KernelsFor(isa).matmul_bf16 != nullptr; }

bool MultipliesBf16(Isa isa, WeightFormat format) {
  return MultipliesBf16(isa) &&
         KernelsFor(isa).matmul_bf16->of[static_cast<size_t>(format)] != nullptr;
}

void MatMul(const Stream& stream, std::span<const MatMulJob> jobs) {
  while (!jobs.empty()) {
    const size_t count = std::min(jobs.size(), kMaxPlannedJobs / stream.pool().num_shards());
    RunBatch(stream, jobs.first(count));
    jobs = jobs.subspan(count);
  }
}

void MatMulOnThread(const Stream& stream, const MatMulJob& job) {
  if (job.num_rows == 0 || job.weight->rows() == 0) return;
  CheckJob(stream, job);
  KernelOf(stream, job)(ArgsOf(job, 0, job.num_rows), 0, job.weight->num_tiles());
}

}  // namespace halfmoon::kernels
