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
    const std::byte* keys = PageOf(args, p) + args.k_offset;
    const int32_t slot = p % args.block_size;
    float score = 0.0f;
    for (int d = 0; d < d_count; ++d) {
      const int64_t index =
          (static_cast<int64_t>(slot / kKvLane) * d_count + d) * kKvLane + slot % kKvLane;
      score = std::fma(q[d], LoadElement(args.type, keys, index), score);
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
    const std::byte* values = PageOf(args, p) + args.v_offset;
    const int64_t first = static_cast<int64_t>(p % args.block_size) * v_count;
    for (int d = 0; d < v_count; ++d) {
      state[d] = std::fma(e, LoadElement(args.type, values, first + d), state[d]);
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
  const int64_t d_count = args.head_dim;
  const int64_t head_elements = args.block_size * d_count;
  const int64_t v_first = args.num_kv_heads * head_elements;
  const int64_t k_slot = args.slot / kKvLane * d_count * kKvLane + args.slot % kKvLane;
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    for (int64_t d = 0; d < d_count; ++d) {
      StoreElement(args.type, args.k[head * d_count + d], args.page,
                   head * head_elements + k_slot + d * kKvLane);
      StoreElement(args.type, args.v[head * d_count + d], args.page,
                   v_first + head * head_elements + args.slot * d_count + d);
    }
  }
}

}  // namespace halfmoon::kernels::generic
