// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cpu/generic.h"
#include "kernels/cpu/kv_element.h"

namespace halfmoon::kernels::generic {

void StoreLatent(const StoreLatentArgs& args) {
  StoreRow(args.type, args.kv, args.head_dim, args.row);
  if (args.index_dim == 0) return;
  StoreRun(args.type, args.index_key, args.index_dim, args.index_run, args.lane);
}

void StageLatent(const StageLatentArgs& args) {
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t p = args.positions != nullptr ? args.positions[i] : args.first + i;
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const std::byte* row = args.pages + page * args.page_bytes + args.row_offset +
                           static_cast<size_t>(p % args.block_size) * args.row_bytes;
    float* keys =
        args.keys + static_cast<int64_t>(i / kKvLane) * args.key_stride * kKvLane + i % kKvLane;
    float* values = args.values + static_cast<int64_t>(i) * args.value_stride;
    for (int32_t d = 0; d < args.head_dim; ++d) {
      const float value = LoadRow(args.type, row, args.head_dim, d);
      if (d >= args.key_begin) keys[static_cast<int64_t>(d - args.key_begin) * kKvLane] = value;
      if (d < args.value_dim) values[d] = value;
    }
    for (int32_t d = args.value_dim; d < args.value_stride; ++d) values[d] = 0.0f;
  }
}

void IndexScores(const IndexScoreArgs& args) {
  for (int32_t p = args.begin; p < args.end; ++p) {
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const auto slot = static_cast<size_t>(p % args.block_size);
    const std::byte* run = args.pages + page * args.page_bytes + args.index_offset +
                           slot / kKvLane * kKvLane * args.row_bytes;
    float total = 0.0f;
    for (int32_t h = 0; h < args.num_heads; ++h) {
      const float* q = args.q + static_cast<int64_t>(h) * args.index_dim;
      float dot = 0.0f;
      for (int32_t d = 0; d < args.index_dim; ++d) {
        dot = std::fma(q[d], LoadRun(args.type, run, args.index_dim, d, p % kKvLane), dot);
      }
      const float scaled = dot * args.scale;
      total = std::fma(args.w[h], scaled > 0.0f ? scaled : 0.0f, total);
    }
    args.scores[p - args.begin] = total;
  }
}

}  // namespace halfmoon::kernels::generic
