// SPDX-License-Identifier: Apache-2.0
// The table of kernels: one per ISA, filled in registry.cc and nowhere else. Dispatch is one load
// per op call. Kernels get plain structs: a file compiled for a wider ISA must not emit shared
// inline functions, because the linker keeps one copy of those for the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/packed_matrix.h"
#include "kernels/paged_kv.h"

namespace halfmoon::kernels {

/// A MatMulJob for kernels. The f32 ops read x, the int8 ops q, scale and sum16, the bf16 op bf16
/// (matmul.h).
struct MatMulArgs {
  const std::byte* tiles = nullptr;
  size_t tile_bytes = 0;
  size_t quant_bytes = 0;
  int64_t n = 0;  ///< outputs
  int64_t k = 0;  ///< inputs
  int32_t zero = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int8_t* q = nullptr;
  const float* scale = nullptr;
  const int32_t* sum16 = nullptr;
  int64_t groups = 0;
  const uint16_t* bf16 = nullptr;
  int64_t bf16_stride = 0;
  const int32_t* row_index = nullptr;  ///< null: row i is row_begin + i
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

/// All rows of the job over tiles [tile_begin, tile_end), on the calling thread.
using MatMulTilesFn = void (*)(const MatMulArgs& args, int64_t tile_begin, int64_t tile_end);

/// One kernel for each weight format.
struct MatMulTable {
  MatMulTilesFn of[kNumWeightFormats];
};

/// Consecutive queries of one sequence with the heads of one KV head, over positions
/// [begin, end) of one split (attention.h). Row i * group + h is query i, head h of the group.
/// State row, D the value dimension: o[D], padded to a multiple of 16, then m and l; stride
/// AttendStateStride(D). The op overwrites it; a row that sees no position gets m = -inf, l = 0,
/// o = 0.
struct AttendArgs {
  const std::byte* pages = nullptr;  ///< KV bytes of page 0
  size_t page_bytes = 0;
  const int32_t* page_table = nullptr;
  size_t k_offset = 0;  ///< of this layer and KV head inside a page
  size_t v_offset = 0;
  size_t k_row_bytes = 0;  ///< KvRowBytes(k_type, head_dim)
  size_t v_row_bytes = 0;
  int32_t block_size = 0;
  int32_t head_dim = 0;   ///< of q and k
  int32_t value_dim = 0;  ///< of v, and of a state row
  KvType k_type = KvType::kF16;
  KvType v_type = KvType::kF16;
  int32_t group = 0;         ///< query heads of the KV head
  float scale = 0.0f;        ///< of q·k
  int32_t window = 0;        ///< 0: none
  const float* q = nullptr;  ///< head 0 of the group of query 0
  int64_t q_stride = 0;
  int32_t position = 0;  ///< of query 0
  int32_t num_queries = 0;
  int32_t begin = 0;
  int32_t end = 0;
  int32_t fetch_end = 0;  ///< positions [end, fetch_end) come next on this thread; 0: all is cached
  float* state = nullptr;
};
/// Keys wider than this, and values not of whole vectors, take the generic attend.
inline constexpr int kAttendMaxHeadDim = 640;
/// True where an ISA with `attend_bf16` multiplies keys and values in kBF16 as they are.
constexpr bool AttendsPairs(int head_dim, int value_dim) {
  return head_dim % 2 == 0 && head_dim <= kAttendMaxHeadDim && value_dim % 16 == 0;
}
using AttendFn = void (*)(const AttendArgs& args);

/// Floats from one state row to the next: D rounded up to 16, then m, l and padding.
constexpr int64_t AttendStateStride(int64_t head_dim) { return (head_dim + 15) / 16 * 16 + 16; }
constexpr int64_t AttendStateMax(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr int64_t AttendStateSum(int64_t head_dim) { return AttendStateMax(head_dim) + 1; }

/// Where the new K and V of one token go: its slot in its page, all KV heads of one layer.
struct StoreKvArgs {
  std::byte* k = nullptr;  ///< K of head 0 of the layer inside the page
  std::byte* v = nullptr;
  size_t k_row_bytes = 0;
  size_t v_row_bytes = 0;
  int32_t slot = 0;  ///< position % block_size
  int32_t block_size = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  KvType k_type = KvType::kF16;
  KvType v_type = KvType::kF16;
  const float* new_k = nullptr;  ///< [G * D]
  const float* new_v = nullptr;
};

/// Where the latent row of one token goes, and its index key where there is one.
struct StoreLatentArgs {
  std::byte* row = nullptr;  ///< [head_dim] of the token's slot
  int32_t head_dim = 0;
  std::byte* index_run = nullptr;  ///< the run of index keys that holds the slot
  int32_t lane = 0;                ///< position % kKvLane
  int32_t index_dim = 0;           ///< 0: no index key
  KvType type = KvType::kF16;
  const float* kv = nullptr;         ///< [head_dim]
  const float* index_key = nullptr;  ///< [index_dim]
};

/// K and V of one KV head at positions [first, first + count), first a multiple of 16, in float32,
/// laid out as attend reads a page of that type: keys [ceil(count / 16)][head_dim][16], values
/// [count][head_dim]. Lanes of positions beyond hold anything.
struct StageHeadsArgs {
  const std::byte* pages = nullptr;  ///< KV bytes of page 0
  size_t page_bytes = 0;
  const int32_t* page_table = nullptr;
  size_t k_offset = 0;  ///< of this layer and KV head inside a page
  size_t v_offset = 0;
  size_t k_row_bytes = 0;
  size_t v_row_bytes = 0;
  int32_t block_size = 0;
  int32_t head_dim = 0;  ///< a multiple of 16
  KvType k_type = KvType::kF16;
  KvType v_type = KvType::kF16;
  int32_t first = 0;
  int32_t count = 0;
  float* keys = nullptr;
  float* values = nullptr;
};

/// Latent rows of up to kAttentionSplit positions as K and V of one KV head, which is what attend
/// reads: columns from key_begin on as keys [ceil(count / 16)][key_stride][16], of which the first
/// head_dim - key_begin of a run are written, and values [count][value_stride], zero beyond
/// value_dim. In float32, or, if `to` is kBF16, with a pair in place of each float: keys
/// [ceil(count / 16)][key_stride / 2][16][2], values [ceil(count / 2)][value_stride][2], where the
/// second of the last pair holds anything.
struct StageLatentArgs {
  const std::byte* pages = nullptr;  ///< KV bytes of page 0
  size_t page_bytes = 0;
  const int32_t* page_table = nullptr;
  size_t row_offset = 0;  ///< of this layer's rows inside a page
  size_t row_bytes = 0;
  int32_t block_size = 0;
  int32_t head_dim = 0;
  int32_t value_dim = 0;
  int32_t value_stride = 0;
  int32_t key_begin = 0;  ///< a multiple of 16, or the plain kernel runs
  int32_t key_stride = 0;
  KvType type = KvType::kF16;
  /// kBF16: of ISAs with attend_bf16, from kBF16; all columns in multiples of 16.
  KvType to = KvType::kF32;
  const int32_t* positions = nullptr;  ///< null: first, first + 1, ..
  int32_t first = 0;
  int32_t count = 0;
  float* keys = nullptr;
  float* values = nullptr;
};

/// scores[p - begin] = Σ_h w[h] relu((q[h] · k[p]) scale) of one query (indexer.h), for positions
/// [begin, end), begin a multiple of 16; writes whole runs of 16.
struct IndexScoreArgs {
  const std::byte* pages = nullptr;
  size_t page_bytes = 0;
  const int32_t* page_table = nullptr;
  size_t index_offset = 0;  ///< of this layer's index keys inside a page
  size_t row_bytes = 0;
  int32_t block_size = 0;
  int32_t num_heads = 0;
  int32_t index_dim = 0;
  KvType type = KvType::kF16;
  float scale = 0.0f;
  const float* q = nullptr;  ///< [num_heads, index_dim]
  const float* w = nullptr;  ///< [num_heads]
  int32_t begin = 0;
  int32_t end = 0;
  float* scores = nullptr;
};

/// Kernels of one ISA; contracts in matmul.h, rowwise.h and attention.h.
struct KernelTable {
  const MatMulTable* matmul_f32;
  const MatMulTable* matmul_int8;  ///< null entries for the plain formats
  const MatMulTable* matmul_bf16;  ///< null where the ISA has none; null entries as MultipliesBf16
  void (*quantize_row)(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum16);
  void (*round_row)(const float* x, int64_t k, uint16_t* out);  ///< null as matmul_bf16 is
  void (*rms_norm)(const float* x, const float* w, int64_t n, float eps, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*rope_half)(float* x, int64_t r, const float* cos, const float* sin);
  void (*softmax)(const float* x, int64_t n, float* out);
  void (*sigmoid)(const float* x, int64_t n, float* out);
  void (*scaled_add)(float* x, const float* y, float weight, int64_t n);  ///< x = fma(weight, y, x)
  AttendFn attend;
  /// attend rounds queries and weights of values to bfloat16 where both types are kBF16 and the
  /// shape allows it (AttendsPairs): a copy of those pages in float32 would not give the same bits.
  bool attend_bf16;
  /// attention.h: to[i] merged with from[i], for `rows` state rows.
  void (*merge_states)(int64_t value_dim, int64_t rows, const float* from, float* to);
  void (*store_state)(int64_t value_dim, const float* state, float* out);  ///< out = o / l
  void (*store_kv)(const StoreKvArgs& args);
  void (*store_latent)(const StoreLatentArgs& args);
  void (*stage_heads)(const StageHeadsArgs& args);
  void (*stage_latent)(const StageLatentArgs& args);
  void (*index_scores)(const IndexScoreArgs& args);
  // Loops at the limit of the machine (probe.h): operations done, and a result that must not be
  // optimised away.
  int64_t (*probe_int8)(int64_t iterations, int32_t* result);
  int64_t (*probe_f32)(int64_t iterations, int32_t* result);
  int64_t (*probe_bf16)(int64_t iterations, int32_t* result);  ///< null where the ISA has none
  int32_t (*probe_read)(const std::byte* memory, size_t size_bytes);
};

/// The table of `isa`, which AvailableIsas() has listed.
const KernelTable& KernelsFor(Isa isa);

}  // namespace halfmoon::kernels
