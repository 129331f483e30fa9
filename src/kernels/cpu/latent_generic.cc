// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cpu/generic.h"
#include "kernels/cpu/kv_element.h"

namespace halfmoon::kernels::generic {

void StoreLatent(const StoreLatentArgs& args) {
  for (int32_t d = 0; d < args.head_dim; ++d) StoreElement(args.type, args.kv[d], args.row, d);
  const int64_t first = static_cast<int64_t>(args.slot / kKvLane) * args.index_dim * kKvLane;
  for (int32_t d = 0; d < args.index_dim; ++d) {
    StoreElement(args.type, args.index_key[d], args.index_keys,
                 first + static_cast<int64_t>(d) * kKvLane + args.slot % kKvLane);
  }
}

void StageLatent(const StageLatentArgs& args) {
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t p = args.positions != nullptr ? args.positions[i] : args.first + i;
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const std::byte* rows = args.pages + page * args.page_bytes + args.row_offset;
    const int64_t row = static_cast<int64_t>(p % args.block_size) * args.head_dim;
    float* keys =
        args.keys + static_cast<int64_t>(i / kKvLane) * args.key_stride * kKvLane + i % kKvLane;
    float* values = args.values + static_cast<int64_t>(i) * args.value_stride;
    for (int32_t d = 0; d < args.head_dim; ++d) {
      const float value = LoadElement(args.type, rows, row + d);
      if (d >= args.key_begin) keys[static_cast<int64_t>(d - args.key_begin) * kKvLane] = value;
      if (d < args.value_dim) values[d] = value;
    }
    for (int32_t d = args.value_dim; d < args.value_stride; ++d) values[d] = 0.0f;
  }
}

void IndexScores(const IndexScoreArgs& args) {
  for (int32_t p = args.begin; p < args.end; ++p) {
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const std::byte* keys = args.pages + page * args.page_bytes + args.index_offset;
    const int32_t slot = p % args.block_size;
    const int64_t first = static_cast<int64_t>(slot / kKvLane) * args.index_dim * kKvLane;
    float total = 0.0f;
    for (int32_t h = 0; h < args.num_heads; ++h) {
      const float* q = args.q + static_cast<int64_t>(h) * args.index_dim;
      float dot = 0.0f;
      for (int32_t d = 0; d < args.index_dim; ++d) {
        const int64_t index = first + static_cast<int64_t>(d) * kKvLane + slot % kKvLane;
        dot = std::fma(q[d], LoadElement(args.type, keys, index), dot);
      }
      const float scaled = dot * args.scale;
      total = std::fma(args.w[h], scaled > 0.0f ? scaled : 0.0f, total);
    }
    args.scores[p - args.begin] = total;
  }
}

}  // namespace halfmoon::kernels::generic
