// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/cpu/generic.h"
#include "kernels/cpu/kv_element.h"
#include "kernels/exp.h"

namespace halfmoon::kernels::generic {
namespace {

const std::byte* PageOf(const AttendArgs& args, int32_t position) {
  const auto page = static_cast<size_t>(args.page_table[position / args.block_size]);
  return args.pages + page * args.page_bytes;
}

void AttendRow(const AttendArgs& args, const float* q, int32_t begin, int32_t end, float* state) {
  const int d_count = args.head_dim;
  const int v_count = args.value_dim;
  float scores[kAttentionSplit];
  float max = -std::numeric_limits<float>::infinity();
  for (int32_t p = begin; p < end; ++p) {
    const auto slot = static_cast<size_t>(p % args.block_size);
    const std::byte* run =
        PageOf(args, p) + args.k_offset + slot / kKvLane * kKvLane * args.k_row_bytes;
    float score = 0.0f;
    for (int d = 0; d < d_count; ++d) {
      score = std::fma(q[d], LoadRun(args.k_type, run, d_count, d, p % kKvLane), score);
    }
    score *= args.scale;
    scores[p - begin] = score;
    max = score > max ? score : max;
  }
  float lanes[16] = {};
  std::fill_n(state, AttendStateStride(v_count), 0.0f);
  for (int32_t p = begin; p < end; ++p) {
    const float e = Exp(scores[p - begin] - max);
    lanes[p % 16] += e;
    const std::byte* rows = PageOf(args, p) + args.v_offset;
    const auto slot = static_cast<size_t>(p % args.block_size);
    for (int d = 0; d < v_count; ++d) {
      const float v = LoadValue(args.v_type, rows, args.v_row_bytes, slot, v_count, d);
      state[d] = std::fma(e, v, state[d]);
    }
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  state[AttendStateMax(v_count)] = max;
  state[AttendStateSum(v_count)] = lanes[0];
}

}  // namespace

void Attend(const AttendArgs& args) {
  for (int32_t i = 0; i < args.num_queries; ++i) {
    const int32_t position = args.position + i;
    const int32_t end = std::min(args.end, position + 1);
    const int32_t begin =
        args.window > 0 ? std::max(args.begin, position + 1 - args.window) : args.begin;
    for (int32_t h = 0; h < args.group; ++h) {
      const int64_t row = static_cast<int64_t>(i) * args.group + h;
      AttendRow(args, args.q + i * args.q_stride + h * args.head_dim, begin, std::max(begin, end),
                args.state + row * AttendStateStride(args.value_dim));
    }
  }
}

void StoreKv(const StoreKvArgs& args) {
  const auto slots = static_cast<size_t>(args.block_size);
  const auto slot = static_cast<size_t>(args.slot);
  for (int32_t head = 0; head < args.num_kv_heads; ++head) {
    const size_t first = static_cast<size_t>(head) * slots;
    StoreRun(args.k_type, args.new_k + int64_t{head} * args.head_dim, args.head_dim,
             args.k + (first + slot / kKvLane * kKvLane) * args.k_row_bytes, args.slot % kKvLane);
    StoreValue(args.v_type, args.new_v + int64_t{head} * args.head_dim, args.head_dim,
               args.v + first * args.v_row_bytes, args.v_row_bytes, slot);
  }
}

void StageHeads(const StageHeadsArgs& args) {
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t p = args.first + i;
    const auto page = static_cast<size_t>(args.page_table[p / args.block_size]);
    const auto slot = static_cast<size_t>(p % args.block_size);
    const std::byte* bytes = args.pages + page * args.page_bytes;
    const std::byte* run = bytes + args.k_offset + slot / kKvLane * kKvLane * args.k_row_bytes;
    const std::byte* rows = bytes + args.v_offset;
    float* keys = args.keys + int64_t{i / kKvLane} * args.head_dim * kKvLane + i % kKvLane;
    float* values = args.values + int64_t{i} * args.head_dim;
    for (int32_t d = 0; d < args.head_dim; ++d) {
      keys[int64_t{d} * kKvLane] = LoadRun(args.k_type, run, args.head_dim, d, p % kKvLane);
      values[d] = LoadValue(args.v_type, rows, args.v_row_bytes, slot, args.head_dim, d);
    }
  }
}

void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to) {
  const int64_t stride = AttendStateStride(value_dim);
  const int64_t max = AttendStateMax(value_dim);
  const int64_t sum = AttendStateSum(value_dim);
  for (int64_t row = 0; row < rows; ++row, from += stride, to += stride) {
    if (from[sum] == 0.0f) continue;
    if (to[sum] == 0.0f) {
      std::copy_n(from, stride, to);
      continue;
    }
    const float merged = from[max] > to[max] ? from[max] : to[max];
    const float a = Exp(to[max] - merged);
    const float b = Exp(from[max] - merged);
    to[max] = merged;
    to[sum] = to[sum] * a + from[sum] * b;
    for (int64_t d = 0; d < max; ++d) to[d] = to[d] * a + from[d] * b;
  }
}

void StoreState(int64_t value_dim, const float* state, float* out) {
  const float sum = state[AttendStateSum(value_dim)];
  for (int64_t d = 0; d < value_dim; ++d) out[d] = state[d] / sum;
}

}  // namespace halfmoon::kernels::generic
